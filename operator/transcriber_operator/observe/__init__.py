"""Reads the cluster and the pods: one `Observed` per pass."""
