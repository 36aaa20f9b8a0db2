"""Glue to Kopf: what wakes a pass, and the loop that runs it."""
