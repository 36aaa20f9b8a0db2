"""The demo: build, serve, transcribe and prove, with the commands that a person would type."""

import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TRANSCRIBER = [sys.executable, "-u", "-m", "transcriber_cli"]  # unbuffered: the endpoint is read while the server runs
SERVE = [
    *TRANSCRIBER,
    "serve",
    "-f",
    "examples/whisper-base.yaml",
    "--volume",
    "models=examples/models",
    "--port",
    "0",
    "--metrics-port",
    "0",
]
TRANSCRIBE = [
    *TRANSCRIBER,
    "transcribe",
    "examples/audio/a-tale-of-two-cities.flac",
    "--language",
    "en",
    "--timestamps",
    "none",
    "--verify",
]
SECONDS_TO_STOP = 60


def main() -> int:
    """Serve, transcribe once, stop; returns the exit code."""
    with subprocess.Popen(SERVE, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            endpoint = wait_for_endpoint(server)
            if endpoint is None:
                return server.wait() or 1
            return subprocess.run([*TRANSCRIBE, "--endpoint", endpoint], cwd=ROOT, check=False).returncode
        except KeyboardInterrupt:
            return 130
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(SECONDS_TO_STOP)


def wait_for_endpoint(server: "subprocess.Popen[str]") -> str | None:
    """Pass on what the server says until it names its endpoint; None where it ended instead."""
    assert server.stdout is not None
    for line in server.stdout:
        print(line, end="", flush=True)  # noqa: T201
        found = re.search(r"127\.0\.0\.1:\d+", line)
        if found:
            return found[0]
    return None


if __name__ == "__main__":
    sys.exit(main())
