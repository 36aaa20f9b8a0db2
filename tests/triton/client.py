"""A client of a served whisper-base that also sees what the server holds: its metrics, its processes and their memory."""

import json
import os
import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as kserve
from tritonclient.grpc import service_pb2_grpc as kserve_grpc

from tests.triton.test_launcher import Serving
from transcriber_engine.result import Transcript

PATIENCE_SECONDS = 600
POLL_SECONDS = 0.05  # Triton announces no change of a metric
MESSAGE_BYTES = 1 << 30
Tensor = tuple[str, str, list[int], bytes]  # name, data type, shape, raw content


def string(name: str, value: bytes) -> Tensor:
    return name, "BYTES", [1], len(value).to_bytes(4, "little") + value


def floats(name: str, values: np.ndarray) -> Tensor:
    return name, "FP32", list(values.shape), values.astype("<f4").tobytes()


def options(**chosen: Any) -> Tensor:
    return string("OPTIONS", json.dumps(chosen).encode())


def request(*tensors: Tensor, output: str = "RESULT", model: str = "transcribe") -> kserve.ModelInferRequest:
    message = kserve.ModelInferRequest(model_name=model)
    for name, data_type, shape, content in tensors:
        message.inputs.add(name=name, datatype=data_type, shape=shape)
        message.raw_input_contents.append(content)
    message.outputs.add(name=output)
    return message


def audio(content: bytes | np.ndarray, **chosen: Any) -> kserve.ModelInferRequest:
    """A request for a file (bytes) or for samples (an array)."""
    return request(string("AUDIO", content) if isinstance(content, bytes) else floats("PCM", content), options(**chosen))


@dataclass(frozen=True)
class Answer:
    """A transcript, or the gRPC code and message that came instead."""

    code: str
    message: str = ""
    transcript: Transcript | None = None

    @property
    def text(self) -> str:
        return self.result.text

    @property
    def result(self) -> Transcript:
        assert self.transcript is not None, f"{self.code}: {self.message}"
        return self.transcript

    @property
    def tokens(self) -> list[int]:
        return [token for segment in self.result.segments for token in segment.tokens]


class Whisper:
    """The served model; `close` it."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        [self._metrics] = re.findall(r"^metrics\s+(\S+)", serving.said, re.MULTILINE)
        limits = [("grpc.max_send_message_length", MESSAGE_BYTES), ("grpc.max_receive_message_length", MESSAGE_BYTES)]
        self._channel = grpc.insecure_channel(serving.endpoint, options=limits)
        self._stub = kserve_grpc.GRPCInferenceServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def is_ready(self) -> bool:
        return bool(self._stub.ServerReady(kserve.ServerReadyRequest()).ready)

    def send(self, message: kserve.ModelInferRequest) -> grpc.Future:
        return self._stub.ModelInfer.future(message, timeout=PATIENCE_SECONDS)

    def ask(self, message: kserve.ModelInferRequest) -> Answer:
        return answer(self.send(message))

    def metrics(self) -> dict[str, float]:
        """The transcriber's figures by name, and Triton's count of pending requests as `pending MODEL`."""
        with urllib.request.urlopen(self._metrics, timeout=PATIENCE_SECONDS) as page:
            text = page.read().decode()
        own = re.findall(r"^transcriber_(\w+)\{.*\} (\S+)$", text, re.MULTILINE)
        pending = re.findall(r'^nv_inference_pending_request_count\{model="(\w+)".*\} (\S+)$', text, re.MULTILINE)
        return {name: float(value) for name, value in [*own, *((f"pending {model}", value) for model, value in pending)]}

    def wait_until(self, is_so: Callable[[Mapping[str, float]], bool]) -> dict[str, float]:
        """Wait for figures that fulfil a condition, and return them."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_so(figures := self.metrics()):
            assert time.monotonic() < deadline, figures
            time.sleep(POLL_SECONDS)
        return figures

    def wait_until_idle(self) -> dict[str, float]:
        return self.wait_until(is_idle)

    def pid(self, model: str) -> int:
        path = f"{self.serving.repository}/models/{model}/1/model.py".encode()
        [found] = [pid for pid in tree(self.serving.process.pid) if path in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
        return found

    @contextmanager
    def busy_encoder(self) -> Iterator[None]:
        """Give the encoder so many windows of its own that it does not come to others meanwhile."""
        mel = np.zeros((80, 3000), np.float32)
        message = request(floats("MEL", mel), output="HIDDEN", model="whisper_encoder")
        calls = [self.send(message) for _ in range(100)]
        self.wait_until(lambda figures: figures["pending whisper_encoder"] > 50)
        yield
        assert not calls[-1].done(), "the encoder had time for others"
        for call in calls:
            call.cancel()

    def resident_bytes(self) -> int:
        """Memory of the whole process tree, pages shared by several counted for each."""
        return sum(_resident_bytes(pid) for pid in tree(self.serving.process.pid))


def answer(call: grpc.Future) -> Answer:
    try:
        reply = call.result()
    except grpc.RpcError as error:
        return Answer(error.code().name, error.details())
    except grpc.FutureCancelledError:
        return Answer("CANCELLED")
    [content] = reply.raw_output_contents
    return Answer("OK", transcript=Transcript.model_validate_json(content[4:]))


def is_idle(figures: Mapping[str, float]) -> bool:
    """Whether nothing is held anywhere: no request, no audio, no slot, nothing in any of Triton's queues."""
    held = (
        "requests_in_progress",
        "canaries_in_progress",
        "queued_audio_seconds",
        "in_flight_audio_seconds",
        "slots_active",
        "windows_waiting",
    )
    return not any(value for name, value in figures.items() if name in held or name.startswith("pending"))


def tree(root: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it ended meanwhile
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _resident_bytes(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return 0
