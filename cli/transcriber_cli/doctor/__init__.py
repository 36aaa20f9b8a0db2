"""`transcriber doctor`: what a cluster lacks to serve. `look` reads a snapshot, `checks` are pure functions of it."""
