"""`python serving_stub.py`: a replica without a model, for tests of scaling: what a pod says and does, in 20 MiB.

It plays Triton and its exporter, runs in place of the latter and takes its flags. Probes, /drain and /load are those of the
exporter. POST /work {"audio_seconds"} is a file: it waits its turn, is decoded in windows at a set rate, and is answered 200 when
it is done, 503 when another replica should be asked (not loaded yet, draining, ended before it was done) and 429 where too much
waits. POST /control {"figures": …, "throughput": …} changes what /load says (see FIGURES) and the rate. Standard library only:
many run at once.
"""

import argparse
import json
import math
import signal
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SETTLE_SECONDS = 1.0  # of a drain: until clients have heard that this pod takes no more
BACKLOG = 256
RETRIABLE = 503
TOO_MUCH = 429
# What /load says in place of the truth: no answer, no figures, or figures that are not true.
FIGURES: dict[str, dict[str, float] | None] = {
    "gone": None,
    "unknown": {},
    "frozen": {},
    "nan": {"queued_audio_seconds": math.nan},
    "negative": {"in_flight_audio_seconds": -1.0},
    "absurd": {"queued_audio_seconds": 1e12},
}


class File:
    """A file that was admitted; `has_ended` is set when it is decoded or given up."""

    def __init__(self, windows: list[float]) -> None:
        """Take its windows, in audio seconds."""
        self.waiting = deque(windows)
        self.windows_left = len(windows)
        self.has_ended = threading.Event()

    @property
    def is_decoded(self) -> bool:
        """Whether all of it was."""
        return self.windows_left == 0


class Decoder:
    """Decodes windows of all files in turn, a few at once that share one rate; counts as Triton does."""

    def __init__(self, throughput: float, slots: int, window_seconds: float, max_queued_audio_seconds: float) -> None:
        self.throughput = throughput  # audio seconds per second, of all slots together
        self._slots = slots
        self._window_seconds = window_seconds
        self._max_queued = max_queued_audio_seconds
        self._turns: deque[File] = deque()  # those with windows that wait
        self._files: set[File] = set()
        self._decoding: dict[int, float] = {}  # slot to audio seconds
        self._changed = threading.Condition()
        self._has_stopped = threading.Event()
        self._totals = dict.fromkeys(
            ("admitted_requests_total", "admitted_audio_seconds_total", "processed_audio_seconds_total"), 0.0
        )
        for slot in range(slots):
            threading.Thread(target=self._decode, args=(slot,), daemon=True).start()

    def admit(self, audio_seconds: float) -> File | None:
        """Take a file in; None where too much waits."""
        windows = _windows(audio_seconds, self._window_seconds)
        with self._changed:
            if self._queued() + audio_seconds > self._max_queued:
                return None
            file = File(windows)
            self._files.add(file)
            self._turns.append(file)
            self._totals["admitted_requests_total"] += 1
            self._totals["admitted_audio_seconds_total"] += audio_seconds
            self._changed.notify_all()
            return file

    def load(self) -> dict[str, float]:
        """Return the figures of this moment."""
        with self._changed:
            return {
                "age_seconds": 0.0,
                "queued_audio_seconds": self._queued(),
                "in_flight_audio_seconds": sum(self._decoding.values()),
                "requests": len(self._files),
                "active_slots": len(self._decoding),
                **self._totals,
                # A token per third of a second, two of three drafted ones accepted.
                "output_tokens_total": self._totals["processed_audio_seconds_total"] * 3,
                "draft_tokens_total": self._totals["processed_audio_seconds_total"] * 3,
                "accepted_tokens_total": self._totals["processed_audio_seconds_total"] * 2,
                "cycles_total": self._totals["processed_audio_seconds_total"],
            }

    def await_idle(self, until: float) -> bool:
        """Wait until no file is left, or until a time of the monotonic clock."""
        with self._changed:
            self._changed.wait_for(lambda: not self._files, max(until - time.monotonic(), 0))
            return not self._files

    def stop(self) -> None:
        """Give up what is not done."""
        self._has_stopped.set()
        with self._changed:
            self._turns.clear()
            for file in self._files:
                file.has_ended.set()
            self._files.clear()
            self._changed.notify_all()

    def _queued(self) -> float:
        return sum(sum(file.waiting) for file in self._turns)

    def _decode(self, slot: int) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._turns))
                file = self._turns.popleft()
                window = self._decoding[slot] = file.waiting.popleft()
                if file.waiting:
                    self._turns.append(file)
            if self._has_stopped.wait(window * self._slots / self.throughput):
                return
            with self._changed:
                del self._decoding[slot]
                self._totals["processed_audio_seconds_total"] += window
                file.windows_left -= 1
                if file.is_decoded:
                    self._files.discard(file)
                    file.has_ended.set()
                    self._changed.notify_all()


class Replica:
    """What the pod says of itself."""

    def __init__(self, decoder: Decoder, load_seconds: float, drain_seconds: float) -> None:
        self.decoder = decoder
        self.figures = "true"
        self._started_at = time.time()
        self._loaded_at = time.monotonic() + load_seconds
        self._drain_seconds = drain_seconds
        self._is_draining = threading.Event()
        self._frozen: dict[str, Any] | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether the model is there."""
        return time.monotonic() >= self._loaded_at

    @property
    def takes_work(self) -> bool:
        """Whether it is ready."""
        return self.is_loaded and not self._is_draining.is_set()

    def drain(self) -> dict[str, bool]:
        """Take no more work and wait for what there is, as long as a drain may take."""
        self._is_draining.set()
        until = time.monotonic() + self._drain_seconds
        time.sleep(min(SETTLE_SECONDS, self._drain_seconds))
        return {"drained": self.decoder.await_idle(until)}

    def control(self, figures: str | None = None, throughput: float | None = None) -> None:
        """Change what it says, and how fast it is."""
        if figures is not None:
            self.figures, self._frozen = figures, self.tell() if figures == "frozen" else None
        if throughput is not None:
            self.decoder.throughput = throughput

    def tell(self) -> dict[str, Any] | None:
        """Return what /load says, None where it says nothing."""
        if self._frozen is not None:
            return self._frozen
        lies = FIGURES.get(self.figures, {})
        if lies is None:
            return None
        is_known = self.is_loaded and self.figures != "unknown"
        return {
            "load": {**self.decoder.load(), **lies} if is_known else None,
            "server_started_at": self._started_at,
            "draining": self._is_draining.is_set(),
            "reason": None if is_known else "Triton does not say",
        }

    def work(self, audio_seconds: float) -> int:
        """Decode a file; returns the status of the answer."""
        file = self.decoder.admit(audio_seconds) if self.takes_work else None
        if file is None:
            return TOO_MUCH if self.takes_work else RETRIABLE
        file.has_ended.wait()
        return 200 if file.is_decoded else RETRIABLE


class Handler(BaseHTTPRequestHandler):
    """Answers for the replica of its server."""

    server: "Server"

    def do_GET(self) -> None:
        """Answer probes, the drain and questions for the load."""
        replica = self.server.replica
        match self.path:
            case "/livez" | "/triton/live":
                self._answer(200)
            case "/triton/startup":
                self._answer(200 if replica.is_loaded else RETRIABLE)
            case "/triton/ready":
                self._answer(200 if replica.takes_work else RETRIABLE)
            case "/load":
                told = replica.tell()
                self._answer(200 if told else RETRIABLE, told)
            case "/drain":
                self._answer(200, replica.drain())
            case _:
                self._answer(404)

    def do_POST(self) -> None:
        """Take work and orders."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        match self.path:
            case "/work":
                self._answer(self.server.replica.work(body["audio_seconds"]))
            case "/control":
                self.server.replica.control(**body)
                self._answer(200)
            case _:
                self._answer(404)

    def log_message(self, *_: Any) -> None:
        """Say nothing: probes come every second."""

    def _answer(self, status: int, body: Any = None) -> None:
        content = json.dumps(body if body is not None else {}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Server(ThreadingHTTPServer):
    """Waits at its end for the answers that are under way."""

    request_queue_size = BACKLOG
    daemon_threads = False

    def __init__(self, address: tuple[str, int], replica: Replica) -> None:
        super().__init__(address, Handler)
        self.replica = replica


def _windows(audio_seconds: float, window_seconds: float) -> list[float]:
    """Cut audio into windows."""
    whole, rest = divmod(audio_seconds, window_seconds)
    return [window_seconds] * int(whole) + ([rest] if rest else [])


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True, metavar="IP:PORT")
    parser.add_argument("--drain-seconds", type=float, default=0.0)
    parser.add_argument("--load-seconds", type=float, default=0.0)
    parser.add_argument("--throughput", type=float, default=20.0, help="audio seconds per second")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--window-seconds", type=float, default=30.0)
    parser.add_argument("--max-queued-audio-seconds", type=float, default=36_000.0)
    options, _ = parser.parse_known_args()  # the exporter has flags that mean nothing here
    decoder = Decoder(options.throughput, options.slots, options.window_seconds, options.max_queued_audio_seconds)
    host, _, port = options.listen.rpartition(":")
    server = Server((host, int(port)), Replica(decoder, options.load_seconds, options.drain_seconds))

    def end(*_: object) -> None:
        decoder.stop()
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, end)
    server.serve_forever(poll_interval=0.1)
    server.server_close()


if __name__ == "__main__":
    main()
