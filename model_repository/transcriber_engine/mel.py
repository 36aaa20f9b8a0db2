"""Whisper's log-mel spectrogram in numpy: 30 seconds of 16 kHz audio to [mel bins, 3000]."""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from transcriber_engine.audio import SAMPLE_RATE_HZ

FFT_SAMPLES: Final = 400
HOP_SAMPLES: Final = 160
WINDOW_SECONDS: Final = 30
WINDOW_SAMPLES: Final = WINDOW_SECONDS * SAMPLE_RATE_HZ
FRAMES: Final = WINDOW_SAMPLES // HOP_SAMPLES

# Slaney's mel scale (Auditory Toolbox, 1998): linear below 1 kHz, logarithmic above.
LINEAR_HZ_PER_MEL: Final = 200.0 / 3
BREAK_HZ: Final = 1000.0
BREAK_MEL: Final = BREAK_HZ / LINEAR_HZ_PER_MEL
LOG_STEP: Final = np.log(6.4) / 27.0


def _hz_to_mel(hz: float) -> float:
    return hz / LINEAR_HZ_PER_MEL if hz < BREAK_HZ else BREAK_MEL + float(np.log(hz / BREAK_HZ)) / LOG_STEP


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    logarithmic = BREAK_HZ * np.exp(LOG_STEP * (np.maximum(mel, BREAK_MEL) - BREAK_MEL))
    return np.where(mel < BREAK_MEL, mel * LINEAR_HZ_PER_MEL, logarithmic)


@cache
def mel_filters(mel_bins: int) -> NDArray[np.float64]:
    """Triangular filters of equal area on Slaney's scale up to 8 kHz: [mel_bins, 201]."""
    frequencies_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, FFT_SAMPLES // 2 + 1)
    corners_hz = _mel_to_hz(np.linspace(_hz_to_mel(0), _hz_to_mel(SAMPLE_RATE_HZ / 2), mel_bins + 2))
    low, centre, high = (corners_hz[i : i + mel_bins, None] for i in range(3))
    rising = (frequencies_hz - low) / (centre - low)
    falling = (high - frequencies_hz) / (high - centre)
    return np.asarray(np.maximum(0, np.minimum(rising, falling)) * (2 / (high - low)))


def log_mel(window: NDArray[np.float32], mel_bins: int) -> NDArray[np.float32]:
    """Log-mel of one window of at most 30 s: [samples] -> [mel_bins, 3000].

    As Hugging Face's feature extractor: the audio is padded with silence to 30 s before the transform (the other order changes
    transcripts), and everything more than 8 decades of amplitude squared below the window's maximum is cut.
    """
    if window.ndim != 1 or window.shape[0] > WINDOW_SAMPLES:
        raise ValueError(f"a window is at most {WINDOW_SAMPLES} samples in one dimension, not {window.shape}")
    padded = np.zeros(WINDOW_SAMPLES + FFT_SAMPLES, dtype=np.float64)
    half = FFT_SAMPLES // 2
    padded[half : half + window.shape[0]] = window
    # Reflect at the edges, as a centred transform does.
    padded[:half] = padded[half + 1 : FFT_SAMPLES + 1][::-1]
    padded[-half:] = padded[-FFT_SAMPLES - 1 : -half - 1][::-1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_SAMPLES)[::HOP_SAMPLES][:FRAMES]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT_SAMPLES) / FFT_SAMPLES)
    power = np.abs(np.fft.rfft(frames * hann, axis=-1)) ** 2
    decades = np.log10(np.maximum(mel_filters(mel_bins) @ power.T, 1e-10))
    decades = np.maximum(decades, decades.max() - 8.0)
    return np.asarray((decades + 4.0) / 4.0, dtype=np.float32)
