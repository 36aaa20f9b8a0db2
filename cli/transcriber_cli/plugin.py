"""`kubectl transcriber`: the same commands, found by kubectl as the program `kubectl-transcriber` on the path."""

from transcriber_cli.__main__ import app


def main() -> None:
    """Run, and call it what the user typed."""
    app(prog_name="kubectl transcriber")
