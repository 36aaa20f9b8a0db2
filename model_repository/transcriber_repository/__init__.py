"""Builds, publishes and verifies content-addressed Triton model repositories."""
