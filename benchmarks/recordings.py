"""The recordings of this repository, each with its language and the text that is said in it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from transcriber_engine.audio import AudioLimits, Samples, decode

ROOT: Final = Path(__file__).parents[1]
FOLDERS: Final = (ROOT / "examples" / "audio", ROOT / "tests" / "audio")
LIMITS: Final = AudioLimits(max_bytes=1 << 30, max_seconds=3600)


@dataclass(frozen=True)
class Recording:
    """A file beside a `transcripts.json` that holds the rest."""

    path: Path
    language: str
    kind: str  # "real speaker", "short phrase" or "count to ten"
    text: str


def samples_of(path: Path) -> Samples:
    """Decode the whole of a file: 16 kHz, mono."""
    return np.concatenate(list(decode(path.read_bytes(), LIMITS).blocks()))


def recordings() -> list[Recording]:
    """Return all recordings in the order of their names."""
    found = []
    for folder in FOLDERS:
        transcripts = json.loads((folder / "transcripts.json").read_text(encoding="utf-8"))
        found += [Recording(folder / name, **said) for name, said in transcripts.items()]
    return sorted(found, key=lambda recording: recording.path.name)
