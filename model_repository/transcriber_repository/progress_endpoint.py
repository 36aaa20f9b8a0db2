"""`GET /progress` of a running build: the last event as JSON, for the operator's status."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socket import AF_INET, AF_INET6
from socketserver import ThreadingTCPServer
from typing import Any, Final

from transcriber_repository.progress import Progress, Reporter

Address = tuple[str, int]
STARTING: Final = Progress("starting", 0)
PATIENCE_SECONDS: Final = 10.0  # with a client that connects and asks nothing


@contextmanager
def progress_endpoint(address: Address) -> Iterator[Reporter]:
    """Answer `GET /progress` on `address` (host, port) while the body runs; yields the reporter to tell. Raises OSError."""
    last = STARTING

    def remember(progress: Progress) -> None:
        nonlocal last
        last = progress

    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE_SECONDS

        def do_GET(self) -> None:
            if self.path != "/progress":
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            body = progress_json(last)
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
            """Log nothing: the build's own lines are what people look for."""

    class Server(ThreadingTCPServer):  # not HTTPServer, which asks the DNS for the address's name before it listens
        allow_reuse_address = True
        daemon_threads = True
        address_family = AF_INET6 if ":" in address[0] else AF_INET

    with Server(address, Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="progress", daemon=True)
        thread.start()
        try:
            yield remember
        finally:
            server.shutdown()


def progress_json(progress: Progress) -> bytes:
    """Return `{stage, bytes_done, bytes_total, bytes_per_second, eta_seconds}`; what is unknown is null."""
    content = asdict(progress)
    del content["finished"]
    return json.dumps(content).encode()
