"""What the Triton models of a repository share; imported inside Triton's Python backend alone."""
