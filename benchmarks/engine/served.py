"""Our engine behind a real Triton, started as `transcriber serve` starts it and asked over gRPC on loopback."""

import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import Any, Final

import grpc
from benchmarks.engine.clips import Answer, Clip, FileRun, Piece, Run
from benchmarks.engine.ours import SLOTS
from benchmarks.recordings import ROOT
from tests.triton.client import MESSAGE_BYTES, audio, tree
from tests.triton.client import answer as read_answer
from tritonclient.grpc import service_pb2_grpc as kserve

from transcriber_engine.audio import Samples

EXAMPLE: Final = ROOT / "examples" / "whisper-base.yaml"
PATIENCE_SECONDS: Final = 600
STOP_SECONDS: Final = 60


class Served:
    """A server of whisper-base and its draft with as many slots as the engine has in the other rows of the table."""

    def __init__(self, folder: str) -> None:
        document = re.sub(r"^(\s+slots:) \d+", rf"\1 {SLOTS}", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
        file = Path(folder) / "served.yaml"
        file.write_text(document, encoding="utf-8")
        options = ["-f", str(file), "--volume", f"models={ROOT / 'examples' / 'models'}", "--root", folder]
        command = [sys.executable, "-u", "-m", "transcriber_cli", "serve", *options, "--port", "0", "--metrics-port", "0"]
        self._server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        limits = [("grpc.max_send_message_length", MESSAGE_BYTES), ("grpc.max_receive_message_length", MESSAGE_BYTES)]
        self._channel = grpc.insecure_channel(self._endpoint(), options=limits)
        self._stub = kserve.GRPCInferenceServiceStub(self._channel)

    def transcribe(self, clips: Sequence[Clip], concurrency: int) -> Run:
        """Send each clip as a request of its own; a client sends its next one when it has its answer."""
        began = perf_counter()
        waiting = list(enumerate(clips))[::-1]
        calls: dict[grpc.Future, tuple[int, float]] = {}
        answers: dict[int, Answer] = {}
        while len(answers) < len(clips):
            while waiting and len(calls) < concurrency:
                number, clip = waiting.pop()
                calls[self._send(clip.samples, clip.language, {"voice_activity_detection": "none"})] = number, perf_counter()
            done = _first_done(list(calls))
            number, sent = calls.pop(done)
            result = read_answer(done).result
            tokens = tuple(token for segment in result.segments for token in segment.tokens)
            answers[number] = Answer(tokens, result.text, perf_counter() - sent)
        return Run(perf_counter() - began, tuple(answers[i] for i in range(len(clips))))

    def transcribe_file(self, samples: Samples, language: str, options: Mapping[str, Any]) -> FileRun:
        """Send a long file as one request."""
        began = perf_counter()
        result = read_answer(self._send(samples, language, options)).result
        return FileRun(perf_counter() - began, tuple(Piece(s.start_seconds, s.text) for s in result.segments))

    def peak_bytes(self) -> int:
        """Add up the most that each of the server's processes held; pages that they share count for each."""
        status = [Path(f"/proc/{pid}/status").read_text() for pid in tree(self._server.pid)]
        return sum(int(found) * 1024 for text in status for found in re.findall(r"^VmHWM:\s+(\d+)", text, re.MULTILINE))

    def close(self) -> None:
        """Stop the server."""
        self._channel.close()
        self._server.send_signal(signal.SIGINT)
        self._server.communicate(timeout=STOP_SECONDS)

    def _send(self, samples: Samples, language: str, options: Mapping[str, Any]) -> grpc.Future:
        message = audio(samples, language=language, timestamps="none", **options)
        return self._stub.ModelInfer.future(message, timeout=PATIENCE_SECONDS)

    def _endpoint(self) -> str:
        assert self._server.stderr is not None
        said: list[str] = []
        for line in self._server.stderr:
            said.append(line)
            if line.startswith("ready"):
                endpoint = line.split("grpc://")[1].strip()
            if line.startswith("Ctrl-C"):
                return endpoint
        raise RuntimeError("transcriber serve did not become ready: " + "".join(said[-5:]))


def _first_done(calls: Sequence[grpc.Future]) -> grpc.Future:
    """Wait for any of the calls."""
    ready = Event()
    for call in calls:
        call.add_done_callback(lambda _: ready.set())
    ready.wait()
    return next(call for call in calls if call.done())
