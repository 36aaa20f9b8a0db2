"""A small Hugging Face hub on loopback: the two endpoints a build uses, and faults to inject."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "acme/whisper-tiny"


@dataclass
class Hub:
    files: dict[str, bytes]
    lfs_hashes: dict[str, str] = field(default_factory=dict)  # instead of the true ones
    cut_after: list[int] = field(default_factory=list)  # bytes after which the next transfers break off
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range
    tokens: list[str | None] = field(default_factory=list)
    endpoint: str = ""

    def metadata(self) -> bytes:
        siblings = []
        for name, content in self.files.items():
            entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
            if not name.endswith(".json"):
                sha256 = self.lfs_hashes.get(name, hashlib.sha256(content).hexdigest())
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return json.dumps({"_id": "1", "id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode()


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((path, self.headers.get("Range")))
            hub.tokens.append(self.headers.get("Authorization"))
            if path == f"/api/models/{REPOSITORY}/revision/{COMMIT}":
                self.answer(200, hub.metadata(), {"Content-Type": "application/json"})
            elif path.startswith(prefix := f"/{REPOSITORY}/resolve/{COMMIT}/") and path.removeprefix(prefix) in hub.files:
                self.transfer(hub.files[path.removeprefix(prefix)])
            else:
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def transfer(self, content: bytes) -> None:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            rest = content[start:]
            self.send_response(206)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            if hub.cut_after:
                self.wfile.write(rest[: hub.cut_after.pop(0)])
                self.close_connection = True
            else:
                self.wfile.write(rest)

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
