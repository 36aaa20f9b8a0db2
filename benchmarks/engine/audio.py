"""The audio: real recordings and synthetic speech, as short clips, packed 30 s windows and long files; sounds without speech."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from benchmarks.engine.clips import Clip
from benchmarks.engine.speech import Sentence, sentences
from benchmarks.recordings import Recording, recordings, samples_of

from transcriber_engine.audio import SAMPLE_RATE_HZ, Samples
from transcriber_engine.mel import WINDOW_SAMPLES

SENTENCES: Final = 160  # about twelve minutes
PAUSE_SAMPLES: Final = SAMPLE_RATE_HZ // 2
READING: Final = "a-tale-of-two-cities.flac"
PACKED_LANGUAGES: Final = ("es", "fr", "it", "ja", "pl", "pt", "zh", "hi")
NOISE_AMPLITUDE: Final = 0.03
UNCUT_SAMPLES: Final = 12 * SAMPLE_RATE_HZ  # on either side of a cut, heard again without it; both fit in a window…
UNCUT_PAD_SAMPLES: Final = int(0.4 * SAMPLE_RATE_HZ)  # …with this much silence before and after


@dataclass(frozen=True, eq=False)
class LongFile:
    """Sentences one after another, and from where to where each lasts."""

    samples: Samples
    sentences: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]  # in samples

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.samples.shape[0] / SAMPLE_RATE_HZ

    @property
    def said(self) -> str:
        """The whole text."""
        return " ".join(self.sentences)

    def around(self, seconds: float) -> slice:
        """Return which sentences lie whole within UNCUT_SAMPLES of a moment."""
        moment = int(seconds * SAMPLE_RATE_HZ)
        near = [i for i, (start, end) in enumerate(self.spans) if moment - UNCUT_SAMPLES <= start and end <= moment + UNCUT_SAMPLES]
        return slice(near[0], near[-1] + 1) if near else slice(0, 0)

    def sound(self, chosen: slice) -> Samples:
        """Return the sound of some sentences, one at least, between two silences."""
        return np.pad(self.samples[self.spans[chosen.start][0] : self.spans[chosen.stop - 1][1]], UNCUT_PAD_SAMPLES)


@cache
def _decoded() -> tuple[tuple[Recording, Samples], ...]:
    return tuple((recording, samples_of(recording.path)) for recording in recordings())


@cache
def _spoken() -> tuple[Sentence, ...]:
    return tuple(sentences(SENTENCES))


def real_english(count: int) -> list[Clip]:
    """Return windows of 30 s of a reading by a real speaker, each starting a little later."""
    [reading] = [samples for recording, samples in _decoded() if recording.path.name == READING]
    starts = np.linspace(0, reading.shape[0] - WINDOW_SAMPLES, count).astype(int)
    return [Clip(f"reading from {s / SAMPLE_RATE_HZ:.1f} s", "en", reading[s : s + WINDOW_SAMPLES]) for s in starts.tolist()]


def synthetic_english(count: int) -> list[Clip]:
    """Return windows of at most 30 s packed from whole synthetic sentences; none where there is no synthetic speech."""
    windows: list[list[Sentence]] = [[]]
    for sentence in _spoken():
        if _length([*windows[-1], sentence]) > WINDOW_SAMPLES:
            windows.append([])
        windows[-1].append(sentence)
    chosen = windows[:count]
    return [Clip(f"sentences {i}", "en", _joined(w), " ".join(s.text for s in w)) for i, w in enumerate(chosen) if w]


def english(count: int) -> list[Clip]:
    """Return English windows, real and synthetic in turn."""
    synthetic = synthetic_english(count // 2)
    real = real_english(count - len(synthetic))
    pairs = [clip for i in range(len(real)) for clip in (real[i], *synthetic[i : i + 1])]
    return pairs[:count]


def other_languages(count: int) -> list[Clip]:
    """Return windows of 30 s in other languages, each packed from its recordings, over and over where they are short."""
    found = []
    for language in PACKED_LANGUAGES[:count]:
        own = [samples for recording, samples in _decoded() if recording.language == language]
        once = np.concatenate([part for samples in own for part in (samples, np.zeros(PAUSE_SAMPLES, np.float32))])
        found.append(Clip(f"packed {language}", language, np.resize(once, WINDOW_SAMPLES)))
    return found


def short(count: int) -> list[Clip]:
    """Return single recordings of one to five seconds in nine languages."""
    clips = [Clip(r.path.name, r.language, samples, r.text) for r, samples in _decoded() if samples.shape[0] < 10 * SAMPLE_RATE_HZ]
    step = max(len(clips) // count, 1)
    return clips[::step][:count]


def long_file_speech() -> str:
    """Say what long files are made of."""
    return "synthetic sentences" if _spoken() else "the reading over and over, for Piper is not installed"


def long_file(seconds: float, seed: int) -> LongFile:
    """Return a file of at least that length: synthetic sentences shuffled, with pauses of 0.2 to 1.2 s between them.

    Without synthetic speech it is the reading, over and over.
    """
    rng = random.Random(seed)
    spoken = list(_spoken()) or [Sentence(r.text, samples) for r, samples in _decoded() if r.path.name == READING]
    parts: list[Samples] = []
    said: list[str] = []
    spans: list[tuple[int, int]] = []
    length = 0
    while length < seconds * SAMPLE_RATE_HZ:
        for sentence in rng.sample(spoken, len(spoken)):
            pause = np.zeros(int(rng.uniform(0.2, 1.2) * SAMPLE_RATE_HZ), np.float32)
            parts += [sentence.samples, pause]
            said.append(sentence.text)
            spans.append((length, length + sentence.samples.shape[0]))
            length += sentence.samples.shape[0] + pause.shape[0]
            if length >= seconds * SAMPLE_RATE_HZ:
                break
    return LongFile(np.concatenate(parts), tuple(said), tuple(spans))


def _length(chosen: Sequence[Sentence]) -> int:
    return sum(s.samples.shape[0] for s in chosen) + PAUSE_SAMPLES * (len(chosen) - 1)


def _joined(chosen: Sequence[Sentence]) -> Samples:
    pause = np.zeros(PAUSE_SAMPLES, np.float32)
    return np.concatenate([part for sentence in chosen for part in (sentence.samples, pause)])[: _length(chosen)]


def silence(seconds: float) -> Samples:
    """Digital silence."""
    return np.zeros(int(seconds * SAMPLE_RATE_HZ), np.float32)


def white_noise(seconds: float) -> Samples:
    """Noise of the same power at every frequency."""
    rng = np.random.default_rng(1)
    return rng.normal(0, NOISE_AMPLITUDE, int(seconds * SAMPLE_RATE_HZ)).astype(np.float32)


def pink_noise(seconds: float) -> Samples:
    """Noise whose power falls with frequency, as that of rooms and streets does."""
    count = int(seconds * SAMPLE_RATE_HZ)
    rng = np.random.default_rng(2)
    spectrum = np.fft.rfft(rng.normal(size=count))
    spectrum /= np.sqrt(np.maximum(np.arange(spectrum.shape[0]), 1))
    noise = np.fft.irfft(spectrum, count)
    return (noise / noise.std() * NOISE_AMPLITUDE).astype(np.float32)


def tones(seconds: float) -> Samples:
    """Chords of three notes with overtones that swell and fade, half a second each: like music, and not speech."""
    rng = np.random.default_rng(3)
    time = np.arange(SAMPLE_RATE_HZ // 2) / SAMPLE_RATE_HZ
    swell = np.sin(np.pi * time / time[-1])
    chords = []
    for _ in range(int(seconds * 2)):
        notes = 220 * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 11, 12], size=3, replace=False) / 12)
        chord = sum(np.sin(2 * np.pi * note * overtone * time) / overtone for note in notes for overtone in (1, 2, 3))
        chords.append(0.05 * swell * chord)
    return np.concatenate(chords).astype(np.float32)


NO_SPEECH: Final[dict[str, Callable[[float], Samples]]] = {
    "silence": silence,
    "white noise": white_noise,
    "pink noise": pink_noise,
    "music-like tones": tones,
}
