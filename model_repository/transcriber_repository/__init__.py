"""Builds, verifies and publishes model repositories: weights in, a content-addressed folder that Triton serves out."""

from transcriber_repository.adapters import adapters_dir

__all__ = ["adapters_dir"]
