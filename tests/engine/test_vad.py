import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.recordings import recordings, samples_of
from faster_whisper.vad import get_vad_model

from tests.engine.recordings import CLIPS, READING, tone
from transcriber_engine.vad import FRAME_SAMPLES, SpeechDetector

PANGRAM = CLIPS / "en-quick-brown-fox.flac"


def whole_frames(samples: np.ndarray) -> np.ndarray:
    return samples[: samples.shape[0] // FRAME_SAMPLES * FRAME_SAMPLES]


def test_probabilities_of_a_reading_equal_faster_whispers():
    samples = whole_frames(samples_of(READING))
    theirs = np.asarray(get_vad_model()(samples.copy())).reshape(-1)
    # The last frame is left out: faster-whisper blanks its end in place.
    assert np.abs(SpeechDetector().probabilities(samples) - theirs)[:-1].max() < 1e-4


@pytest.mark.parametrize("frames_at_once", [1, 7, 100])
def test_probabilities_when_audio_comes_in_parts_are_those_of_the_whole(frames_at_once):
    samples = whole_frames(samples_of(PANGRAM))
    detector = SpeechDetector()
    step = frames_at_once * FRAME_SAMPLES
    parts = [detector.probabilities(samples[start : start + step]) for start in range(0, samples.shape[0], step)]
    assert np.abs(np.concatenate(parts) - SpeechDetector().probabilities(samples)).max() < 1e-5


def test_two_detectors_at_once_do_not_hear_each_other():
    samples = whole_frames(samples_of(PANGRAM))
    alone = SpeechDetector().probabilities(samples)
    one, other = SpeechDetector(), SpeechDetector()
    first = one.probabilities(samples[: 20 * FRAME_SAMPLES])
    other.probabilities(samples[30 * FRAME_SAMPLES :])
    assert np.allclose(np.concatenate([first, one.probabilities(samples[20 * FRAME_SAMPLES :])]), alone, atol=1e-5)


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(np.zeros(FRAME_SAMPLES * 300, np.float32), id="silence"),
        pytest.param(np.full(FRAME_SAMPLES * 300, 0.5, np.float32), id="direct current"),
        pytest.param(np.random.default_rng(3).standard_normal(FRAME_SAMPLES * 300).astype(np.float32) * 0.1, id="white noise"),
        pytest.param(whole_frames(tone(10.0)), id="tone"),
        pytest.param(np.sign(whole_frames(tone(10.0))), id="clipping"),
    ],
)
def test_sound_without_speech_is_hardly_ever_taken_for_speech(samples):
    assert (SpeechDetector().probabilities(samples) > 0.5).mean() < 0.02


@pytest.mark.parametrize("path", [recording.path for recording in recordings()], ids=lambda path: path.name)
def test_every_recording_has_speech(path: Path):
    assert (SpeechDetector().probabilities(whole_frames(samples_of(path))) > 0.5).mean() > 0.3


def test_audio_modules_when_imported_bring_in_no_torch():
    modules = ("audio", "audio_decoder", "mel", "vad", "longform", "result")
    imports = "; ".join(f"import transcriber_engine.{module}" for module in modules)
    command = [sys.executable, "-c", f"import sys; {imports}; print('torch' in sys.modules)"]
    answer = subprocess.run(command, env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
