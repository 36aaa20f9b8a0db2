import time

import numpy as np
import pytest
from benchmarks.recordings import samples_of
from transformers import WhisperFeatureExtractor

from tests.engine.recordings import READING, tone
from transcriber_engine.audio import SAMPLE_RATE_HZ
from transcriber_engine.mel import FRAMES, WINDOW_SAMPLES, log_mel, mel_filters

RANDOM = np.random.default_rng(7)
SOUNDS = {
    "speech": lambda: samples_of(READING),
    "noise of a full window": lambda: RANDOM.standard_normal(WINDOW_SAMPLES).astype(np.float32),
    "tone up to the very end": lambda: tone(30.0),
    "silence": lambda: np.zeros(SAMPLE_RATE_HZ, np.float32),
    "one sample": lambda: np.ones(1, np.float32),
    "half a hop more than a second": lambda: tone(1.005),
    "clipping": lambda: np.sign(tone(3.0)),
    "quiet": lambda: tone(3.0) * np.float32(1e-6),
}


@pytest.mark.parametrize("mel_bins", [80, 128])
@pytest.mark.parametrize("name", SOUNDS)
def test_log_mel_of_any_sound_equals_hugging_faces(name, mel_bins):
    samples = SOUNDS[name]()[:WINDOW_SAMPLES]
    theirs = WhisperFeatureExtractor(feature_size=mel_bins)(samples, sampling_rate=SAMPLE_RATE_HZ, return_tensors="np")
    ours = log_mel(samples, mel_bins)
    assert ours.shape == (mel_bins, FRAMES)
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs["input_features"][0]).max() < 1e-4


@pytest.mark.parametrize("mel_bins", [80, 128])
def test_filters_equal_hugging_faces(mel_bins):
    assert np.allclose(mel_filters(mel_bins), WhisperFeatureExtractor(feature_size=mel_bins).mel_filters.T, atol=1e-7)


def test_window_longer_than_thirty_seconds_is_refused():
    with pytest.raises(ValueError, match="at most 480000 samples"):
        log_mel(np.zeros(WINDOW_SAMPLES + 1, np.float32), 80)


def test_window_takes_a_small_share_of_a_second():
    samples = tone(30.0)
    log_mel(samples, 128)

    def seconds() -> float:
        start = time.perf_counter()
        log_mel(samples, 128)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.3  # about 50 ms on an idle core
