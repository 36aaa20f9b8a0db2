"""The recordings that are sent to the served whisper-base, and what the engine makes of them on its own."""

import json
from functools import cache
from pathlib import Path

import numpy as np

from tests.engine.recordings import CLIPS, RATE_HZ, encode
from transcriber_engine.audio import AudioLimits, Samples, decode
from transcriber_engine.longform import Window, WindowCutter, cut

READING = Path(__file__).parents[2] / "examples" / "audio" / "a-tale-of-two-cities.flac"
CHUNK_SAMPLES = 30 * RATE_HZ


@cache
def samples_of(path: Path) -> Samples:
    return np.concatenate(list(decode(path.read_bytes(), AudioLimits(1 << 30, 3600)).blocks()))


@cache
def languages() -> dict[str, str]:
    """Name -> language of the short clips, one to five seconds each, in nine languages."""
    return {name: about["language"] for name, about in json.loads((CLIPS / "transcripts.json").read_text()).items()}


@cache
def talk(seconds: int) -> Samples:
    """A talk of exactly that length: the reading, all clips in their languages, a long break, and again from the start."""
    pause, rest = np.zeros(RATE_HZ // 2, np.float32), np.zeros(100 * RATE_HZ, np.float32)
    parts = [samples_of(READING), *(samples_of(CLIPS / name) for name in languages())]
    once = np.concatenate([piece for part in parts for piece in (part, pause)] + [rest])
    return np.tile(once, -(-seconds * RATE_HZ // once.shape[0]))[: seconds * RATE_HZ]


def flac(samples: Samples) -> bytes:
    return encode(samples, "flac", "flac", RATE_HZ, "s16")


@cache
def files() -> dict[str, tuple[bytes, float]]:
    """Thirty-two files of one second to five minutes: name -> content and seconds."""
    clips = {name: CLIPS / name for name in languages()}
    read = {name: (path.read_bytes(), samples_of(path).shape[0] / RATE_HZ) for name, path in {**clips, "reading": READING}.items()}
    made = {f"talk of {seconds} s": (flac(talk(seconds)), float(seconds)) for seconds in (10, 20, 60, 300)}
    return read | made


def windows_of(samples: Samples) -> list[Window]:
    """The windows that the engine cuts."""
    blocks = (samples[start : start + RATE_HZ] for start in range(0, samples.shape[0], RATE_HZ))
    return list(cut(blocks, WindowCutter(CHUNK_SAMPLES)))


def reading_text() -> str:
    """What is read."""
    return str(json.loads((READING.parent / "transcripts.json").read_text())[READING.name]["text"])
