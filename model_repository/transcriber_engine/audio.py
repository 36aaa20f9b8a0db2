"""Audio of any container to mono 16 kHz, decoded in a child process with bounded memory.

FFmpeg reads what strangers send. It runs in a process of its own with limits on memory, time and files: a crash, a hang or a bomb
ends one request and nothing else. The child reads the input from a memory file and writes raw samples to a pipe, so a slow reader
slows the decoder and nothing piles up.
"""

import math
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from transcriber_engine.errors import Refusal, RequestError

SAMPLE_RATE_HZ: Final = 16_000
BLOCK_SAMPLES: Final = SAMPLE_RATE_HZ
MAX_AMPLITUDE: Final = 16.0  # 24 dB above full scale: more is not audio but a wrong scale, such as 16-bit integers cast to float
IDLE_SECONDS: Final = 60.0  # a decoder that gives nothing for so long hangs

# `audio_decoder.Exit`, which is not imported: it would bring FFmpeg into this process.
EXIT_DONE, EXIT_REFUSED, EXIT_DAMAGED, EXIT_OUT_OF_MEMORY, EXIT_TOO_LONG = 0, 3, 4, 5, 6

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class AudioLimits:
    """What one request may bring; exactly the limit is accepted."""

    max_bytes: int
    max_seconds: float

    @property
    def max_samples(self) -> int:
        """The longest audio in samples."""
        return int(self.max_seconds * SAMPLE_RATE_HZ)


def too_long(name: str, limits: AudioLimits) -> RequestError:
    """Build the refusal of audio beyond the limit of duration."""
    limit = seconds_text(limits.max_seconds)
    return RequestError(name, f"is longer than {limit} (spec.runtime.maxAudioSeconds); send it in parts", Refusal.OUT_OF_RANGE)


def check_pcm(samples: NDArray[np.generic], limits: AudioLimits) -> Samples:
    """Check samples that a caller sent as they are: [n] float32, mono, 16 kHz; raises RequestError."""
    if samples.ndim != 1 or samples.dtype != np.float32:
        raise RequestError("PCM", f"must be float32 of one dimension, mono at 16 kHz, not {samples.dtype} of shape {samples.shape}")
    if samples.shape[0] == 0:
        raise RequestError("PCM", "is empty")
    if samples.shape[0] > limits.max_samples:
        raise too_long("PCM", limits)
    _check_values("PCM", samples)
    return samples.astype(np.float32, copy=False)


def _check_values(name: str, samples: NDArray[np.generic]) -> None:
    if not bool(np.isfinite(samples).all()):
        raise RequestError(name, "holds NaN or infinite samples")
    if float(np.abs(samples).max()) > MAX_AMPLITUDE:
        raise RequestError(name, f"holds samples beyond ±{MAX_AMPLITUDE:g}; full scale is ±1.0")


@dataclass
class DecodedAudio:
    """Audio on its way out of the decoder: iterate `blocks()` once; `warnings` is complete when it ends.

    `announced_seconds` is known from the first block on: what the header says, within the limit; 0 where it says nothing.
    """

    data: bytes
    limits: AudioLimits
    warnings: list[str] = field(default_factory=list)
    announced_seconds: float = 0.0

    def blocks(self) -> Iterator[Samples]:
        """Yield blocks of at most one second; raises RequestError. Closing early ends the decoder."""
        if not self.data:
            raise RequestError("AUDIO", "is empty")
        if len(self.data) > self.limits.max_bytes:
            limit = f"{self.limits.max_bytes} bytes (spec.runtime.maxAudioBytes)"
            raise RequestError("AUDIO", f"has {len(self.data)} bytes; at most {limit} are accepted", Refusal.OUT_OF_RANGE)
        child = _start(self.data, self.limits.max_seconds)
        timer = _Watchdog(child)
        samples = 0
        try:
            announced = _read_announcement(child, timer)
            self.announced_seconds = min(max(announced, 0.0), self.limits.max_seconds) if math.isfinite(announced) else 0.0
            for block in _read_blocks(child, timer):
                samples += block.shape[0]
                if samples > self.limits.max_samples:
                    raise too_long("AUDIO", self.limits)
                _check_values("AUDIO", block)  # files of floats can hold anything
                yield block
        finally:
            timer.stop()
            child.kill()
            assert child.stderr is not None
            message = child.stderr.read().decode("utf-8", errors="replace").strip()
            status = child.wait()
            child.stderr.close()
            assert child.stdout is not None
            child.stdout.close()
        self._conclude(samples, status, message, timed_out=timer.expired)

    def _conclude(self, samples: int, status: int, message: str, *, timed_out: bool) -> None:
        reason = message.splitlines()[-1] if message else ""
        if timed_out:
            raise RequestError("AUDIO", f"the decoder gave nothing for {IDLE_SECONDS:.0f} s; convert the recording to flac")
        if status < 0:
            # Part of the text would look like all of it, so there is none.
            ended = f"the decoder was ended by {signal.Signals(-status).name} after {samples / SAMPLE_RATE_HZ:.1f} s of audio"
            raise RequestError("AUDIO", f"{ended}; send it again, or convert it to flac", Refusal.RESOURCE_EXHAUSTED)
        if status == EXIT_TOO_LONG:
            raise too_long("AUDIO", self.limits)
        if status == EXIT_OUT_OF_MEMORY:
            raise RequestError("AUDIO", reason, Refusal.RESOURCE_EXHAUSTED)
        if status not in (EXIT_DONE, EXIT_REFUSED, EXIT_DAMAGED):
            raise RuntimeError(f"the audio decoder failed with status {status}: {reason}")
        if samples == 0 or status == EXIT_REFUSED:
            raise RequestError("AUDIO", reason or "holds no audio samples")
        if reason:
            self.warnings.append(f"AUDIO: decoded {samples / SAMPLE_RATE_HZ:.1f} s; {reason}")


def decode(data: bytes, limits: AudioLimits) -> DecodedAudio:
    """Decode any supported container (wav, mp3, flac, ogg, webm, m4a/mp4, aac, aiff, au, amr, caf)."""
    return DecodedAudio(data, limits)


class _Watchdog:
    """Kills a decoder that gives nothing for too long."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.expired = False
        self._child = child
        self._timer: threading.Timer | None = None

    def arm(self) -> None:
        self.stop()
        self._timer = threading.Timer(IDLE_SECONDS, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self.expired = True
        self._child.kill()


def _start(data: bytes, max_seconds: float) -> subprocess.Popen[bytes]:
    memory = os.memfd_create("audio")
    try:
        with os.fdopen(os.dup(memory), "wb") as file:
            file.write(data)
        os.lseek(memory, 0, os.SEEK_SET)
        # Inside Triton's embedded interpreter sys.executable is not Python: the launcher says which one to use.
        python = os.environ.get("TRANSCRIBER_PYTHON") or sys.executable
        return subprocess.Popen(
            [python, "-P", "-m", "transcriber_engine.audio_decoder", str(max_seconds)],
            stdin=memory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ.get("PATH", "")},
            start_new_session=True,  # Ctrl-C is for the server, which ends its decoders itself
        )
    finally:
        os.close(memory)


def _read_announcement(child: subprocess.Popen[bytes], timer: _Watchdog) -> float:
    assert child.stdout is not None
    timer.arm()
    head = child.stdout.read(8)
    timer.stop()
    return float(struct.unpack("<d", head)[0]) if len(head) == 8 else math.nan


def _read_blocks(child: subprocess.Popen[bytes], timer: _Watchdog) -> Iterator[Samples]:
    assert child.stdout is not None
    rest = b""
    while True:
        timer.arm()
        # read1 would give a pipe's worth; whole seconds make fewer, larger blocks
        chunk = child.stdout.read(BLOCK_SAMPLES * 4)
        timer.stop()
        if not chunk:
            child.wait()
            return
        rest += chunk
        whole = len(rest) // 4 * 4
        yield np.frombuffer(rest[:whole], dtype="<f4").copy()
        rest = rest[whole:]


def seconds_text(seconds: float) -> str:
    """Human-readable duration for messages: 3723 -> '1 h 2 min 3 s'."""
    if not math.isfinite(seconds):
        return str(seconds)
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{value} {unit}" for value, unit in parts if value) or "0 s"
