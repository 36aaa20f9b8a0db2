"""Whisper inference with exact batched speculative decoding: no Triton and no Kubernetes in it."""

# Part of every repository's digest: raise it whenever the files that a build writes, or what they mean, change.
ENGINE_VERSION = "2"
