"""Recordings and containers for the audio tests: the repository's own, and what is made here."""

import io
import struct
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

CLIPS = Path(__file__).parents[1] / "audio"
READING = Path(__file__).parents[2] / "examples" / "audio" / "a-tale-of-two-cities.flac"
RATE_HZ = 16_000


def tone(seconds: float, rate_hz: int = RATE_HZ, hz: float = 440.0) -> NDArray[np.float32]:
    """A sine at half of full scale whose loudness swells, so that a shift in time shows."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * hz * time) * (0.6 + 0.4 * np.sin(2 * np.pi * 1.7 * time))).astype(np.float32)


def wav(
    samples: NDArray[np.generic], rate_hz: int = RATE_HZ, *, tag: int = 1, channels: int = 1, declared: int | None = None
) -> bytes:
    """A wav file of the samples as they lie in memory; `declared` is the byte count that the header claims, if it lies."""
    data = samples.tobytes()
    width = samples.dtype.itemsize
    count = len(data) if declared is None else declared
    rate = rate_hz & 0xFFFF_FFFF
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * channels * width & 0xFFFF_FFFF, channels * width & 0xFFFF, width * 8)
    riff = min(count + 36, 0xFFFF_FFFF) if declared != 0 else 0
    return b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", count) + data


def encode(samples: NDArray[np.float32], container: str, codec: str, rate_hz: int, sample_format: str) -> bytes:
    """Return the samples as a mono file of that container and codec."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate_hz)
        stream.layout, stream.format = "mono", sample_format
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        frame.pts = 0
        convert = av.AudioResampler(format=sample_format, layout="mono", rate=rate_hz, frame_size=stream.frame_size or 1024)
        for converted in [*convert.resample(frame), *convert.resample(None)]:
            output.mux(stream.encode(converted))
        output.mux(stream.encode(None))
    return target.getvalue()


def film(samples: NDArray[np.float32]) -> bytes:
    """A Matroska file of a moving picture and the samples."""
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as output:
        picture = output.add_stream("mpeg4", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        sound = output.add_stream("flac", rate=RATE_HZ)
        sound.layout, sound.format = "mono", "s16"
        for number in range(25):
            image = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number * 9, dtype=np.uint8), format="rgb24")
            output.mux(picture.encode(image))
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE_HZ, 0
        for packets in (picture.encode(None), sound.encode(frame), sound.encode(None)):
            output.mux(packets)
    return target.getvalue()


def correlation(decoded: NDArray[np.float32], original: NDArray[np.float32], max_shift: int = 1700) -> float:
    """Highest normalised correlation within codec delay; 1.0 is the same waveform."""
    length = min(decoded.shape[0], original.shape[0]) - max_shift
    best = 0.0
    for shift in range(max_shift):
        for a, b in ((decoded[shift : shift + length], original[:length]), (decoded[:length], original[shift : shift + length])):
            best = max(best, float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-12)))
    return best
