"""The Kubernetes API: the kinds that are used, how they are called, as whom, and how fast."""
