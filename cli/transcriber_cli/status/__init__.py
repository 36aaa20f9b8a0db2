"""`transcriber status`: from a resource to the GPU node that serves it. `look` reads, `view` is a pure function of that."""
