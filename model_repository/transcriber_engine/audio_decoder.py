"""The child process of `transcriber_engine.audio`: a container on standard input, float32 samples on standard output.

Its argument is the longest audio in seconds. What it writes begins with the seconds that the header announces, a float64, NaN where
it announces none. The exit status says how it went (`Exit`), the last line of standard error says why.
"""

import math
import os
import resource
import struct
import sys
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final

import av
import av.subtitles.stream
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer

# Containers alone, no playlists: those make FFmpeg open other files and addresses.
DEMUXERS: Final = ("wav", "w64", "mp3", "flac", "ogg", "matroska", "webm", "mov", "mp4", "m4a", "aac", "aiff", "au", "amr", "caf")
# Audio decoders alone: pictures and films that come along are never decoded, so they can be no bomb.
DECODERS: Final = (
    *("mp1", "mp1float", "mp2", "mp2float", "mp3", "mp3float", "aac", "alac", "flac", "opus", "vorbis", "speex"),
    *("amrnb", "amrwb", "gsm_ms", "adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt", "pcm_alaw", "pcm_mulaw", "pcm_u8", "pcm_s8"),
    *(f"pcm_{kind}{end}" for kind in ("s16", "s24", "s32", "f32", "f64") for end in ("le", "be")),
)
# What these declare is a count, not an estimate from the bit rate, so a shortfall means that the end is missing.
# Of PCM in any container it follows from the bytes that are there.
EXACT_DURATIONS: Final = ("flac", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "aiff", "au", "caf")
MAX_SHORTFALL_SECONDS: Final = 0.5
ROUNDING_SECONDS: Final = 1.0  # so close to the limit the samples decide, not the header
STREAMED_RIFF_BYTES: Final = 0x7FFF_F000  # writers that do not know the length declare 0, 2^31 - 1 or 2^32 - 1
MAX_CHANNELS: Final = 24  # more, and libswresample has no rule to mix them down
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
MEMORY_BYTES: Final = 2 << 30
CPU_SECONDS: Final = 1_800
RATE_HZ: Final = 16_000


class Exit(IntEnum):
    """Exit statuses; 1 and 2 are Python's own."""

    DONE = 0
    REFUSED = 3  # no audio that is accepted here
    DAMAGED = 4  # what was written is good, and something is missing
    OUT_OF_MEMORY = 5
    TOO_LONG = 6  # as its header says, so that nothing is decoded in vain


class UndecodableError(Exception):
    """The input is no audio that is accepted here."""


def limit_resources() -> None:
    """Bound what a hostile input can take: memory and processor time; it can open nothing, neither file nor socket."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))  # input, output and error are all there will ever be
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def open_input() -> InputContainer:
    """Open standard input as a container; raises UndecodableError for anything else."""
    allowed = {"format_whitelist": ",".join(DEMUXERS), "codec_whitelist": ",".join(DECODERS), "protocol_whitelist": "none"}
    head = os.pread(0, 1024, 0).lstrip().lower()
    if head.startswith((b"#extm3u", b"[playlist]", b"ffconcat", b"<?xml", b"<mpd", b"<asx", b"<smil")):
        raise UndecodableError("is a playlist, which is not accepted; send the bytes of the recording itself")
    if b"://" in head.split(b"\n", 1)[0][:16]:
        raise UndecodableError("is an address, which is not accepted; send the bytes of the recording itself")
    try:
        return av.open(sys.stdin.buffer, mode="r", options={**allowed, "max_streams": "64"}, metadata_errors="replace")
    except av.error.FFmpegError:
        accepted = "wav, mp3, flac, ogg, webm, m4a or aac"
        raise UndecodableError(f"is not a supported audio file, or its beginning or index is missing; send {accepted}") from None


def audio_stream(container: InputContainer) -> AudioStream:
    """Choose the stream to decode; raises UndecodableError where there is none that can be."""
    stream = container.streams.best("audio")
    if not isinstance(stream, AudioStream):
        raise UndecodableError("has no audio stream")
    if stream.codec_context.name not in DECODERS:
        raise UndecodableError(f"is encoded as {stream.codec_context.name}, which is not accepted; send flac, opus, mp3 or aac")
    return stream


class TooLongError(Exception):
    """The input announces more audio than is accepted."""


class Decoding:
    """One pass over a stream; `problems` is complete when it ends."""

    def __init__(self, container: InputContainer, stream: AudioStream) -> None:
        self._container = container
        self._stream = stream
        self._decoded_seconds = 0.0
        self._damaged_packets = 0
        self.problems: list[str] = []

    def samples(self) -> Iterator[bytes]:
        """Yield mono 16 kHz samples as little-endian float32; raises UndecodableError."""
        resampler, shape = None, None
        for frame in self._frames():
            if shape != (shape := (frame.format.name, frame.layout.name, frame.sample_rate)):  # joined files change midway
                yield from _pull(resampler, None)
                resampler = _resampler(frame)
            frame.pts = None  # headers lie about time; samples follow each other
            self._decoded_seconds += frame.samples / frame.sample_rate
            yield from _pull(resampler, frame)
        yield from _pull(resampler, None)
        self._conclude()

    def _frames(self) -> Iterator[AudioFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self.problems.append(f"damaged or cut short ({error.strerror})")
                return
            if packet is None:
                return
            try:
                yield from packet.decode()
            except av.error.InvalidDataError:
                self._damaged_packets += 1

    def _conclude(self) -> None:
        if self._damaged_packets:
            self.problems.append(f"{self._damaged_packets} damaged packets were left out")
        declared = _declared_seconds(self._container, self._stream)
        if declared is not None and declared - self._decoded_seconds > MAX_SHORTFALL_SECONDS:
            self.problems.append(f"cut short: declares {declared:.1f} s, holds {self._decoded_seconds:.1f} s")
        missing_bytes = _riff_shortfall_bytes()
        if missing_bytes > 0:
            self.problems.append(f"cut short: the last {missing_bytes} bytes that its header declares are missing")


def _resampler(frame: AudioFrame) -> AudioResampler:
    channels = frame.layout.nb_channels
    if not 1 <= channels <= MAX_CHANNELS or not MIN_RATE_HZ <= frame.sample_rate <= MAX_RATE_HZ:
        accepted = f"1 to {MAX_CHANNELS} channels at {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz"
        raise UndecodableError(f"has {channels} channels at {frame.sample_rate} Hz; send {accepted}")
    # Without the bound, float input is mixed louder than the same input in integers.
    return AudioResampler(format="flt", layout="mono", rate=RATE_HZ, options={"rematrix_maxval": "1.0"})


def _pull(resampler: AudioResampler | None, frame: AudioFrame | None) -> Iterator[bytes]:
    if resampler is not None:
        for resampled in resampler.resample(frame):
            yield bytes(resampled.planes[0])[: resampled.samples * 4]


def announced_seconds(container: InputContainer, stream: Any) -> float:
    """Return how long the audio is as far as its header tells, be it an estimate; NaN where it does not."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return float(container.duration / av.time_base) if container.duration is not None else math.nan


def _declared_seconds(container: InputContainer, stream: Any) -> float | None:
    if container.format.name not in EXACT_DURATIONS and not stream.codec_context.name.startswith("pcm_"):
        return None
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if len(container.streams) > 1 or container.duration is None:  # the container's may be that of its film
        return None
    return float(container.duration / av.time_base)


def _riff_shortfall_bytes() -> int:
    head = os.pread(0, 12, 0)
    declared = int.from_bytes(head[4:8], "little")
    if head[:4] != b"RIFF" or head[8:] != b"WAVE" or not 0 < declared < STREAMED_RIFF_BYTES:
        return 0
    return declared + 8 - os.fstat(0).st_size


def main(max_seconds: float) -> int:
    """Decode standard input to standard output; returns the exit status."""
    av.logging.set_level(None)
    limit_resources()
    try:
        container = open_input()
        stream = audio_stream(container)
        if (_declared_seconds(container, stream) or 0.0) > max_seconds + ROUNDING_SECONDS:
            raise TooLongError
        sys.stdout.buffer.write(struct.pack("<d", announced_seconds(container, stream)))
        decoding = Decoding(container, stream)
        for block in decoding.samples():
            sys.stdout.buffer.write(block)
    except UndecodableError as error:
        status, reason = Exit.REFUSED, str(error)
    except TooLongError:
        status, reason = Exit.TOO_LONG, ""
    except MemoryError:
        status, reason = Exit.OUT_OF_MEMORY, "needs more memory to decode than is allowed; convert it to flac and send that"
    except av.error.FFmpegError as error:
        status, reason = Exit.DAMAGED, f"damaged ({error.strerror})"
    else:
        status, reason = (Exit.DAMAGED, "; ".join(decoding.problems)) if decoding.problems else (Exit.DONE, "")
    sys.stdout.buffer.flush()
    print(reason, file=sys.stderr)  # noqa: T201
    return status


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
