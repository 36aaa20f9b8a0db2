"""The end of an installation: the operator goes, and nothing that only it could clean up is left waiting for it."""
