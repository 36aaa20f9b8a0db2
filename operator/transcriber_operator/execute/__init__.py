"""Writes a decision to the cluster."""
