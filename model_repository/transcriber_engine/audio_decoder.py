"""The child process of `transcriber_engine.audio`: a container from standard input to float32 samples on standard output.

Exit status 0 and an empty standard error mean that everything was decoded; a line on standard error says what stopped it.
"""

import resource
import sys
from collections.abc import Iterator

import av
from av.audio.resampler import AudioResampler
from av.container import InputContainer

# Containers alone, no playlists: those make FFmpeg open other files and addresses.
DEMUXERS = ("wav", "w64", "mp3", "flac", "ogg", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "aac", "aiff", "au", "amr", "caf")
MAX_CHANNELS = 64
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
MEMORY_BYTES = 2 << 30
CPU_SECONDS = 1_800
RATE_HZ = 16_000
TOLERATED_MISSING_SECONDS = 1.0  # headers of compressed files estimate


class UndecodableError(Exception):
    """The input is no audio that is accepted here."""


def limit_resources() -> None:
    """Bound what a hostile input can take: memory, processor time, no files to write, few to open."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def open_input() -> InputContainer:
    """Open standard input as a container; raises UndecodableError for anything else."""
    try:
        container = av.open(sys.stdin.buffer, mode="r", options={"protocol_whitelist": "pipe", "max_streams": "64"})
    except av.error.FFmpegError:
        raise UndecodableError("is not a supported audio file; send wav, mp3, flac, ogg, webm, m4a or aac") from None
    if container.format.name not in DEMUXERS:
        raise UndecodableError(
            f"is {container.format.long_name}, which is not accepted; send wav, mp3, flac, ogg, webm, m4a or aac"
        )
    if not container.streams.audio:
        raise UndecodableError("has no audio stream")
    return container


def samples(container: InputContainer) -> Iterator[bytes]:
    """Decode the first audio stream, mixed down and resampled, as little-endian float32."""
    resampler = AudioResampler(format="flt", layout="mono", rate=RATE_HZ)
    for frame in container.decode(container.streams.audio[0]):
        if not MIN_RATE_HZ <= frame.sample_rate <= MAX_RATE_HZ or not 1 <= frame.layout.nb_channels <= MAX_CHANNELS:
            raise UndecodableError(f"has {frame.layout.nb_channels} channels at {frame.sample_rate} Hz, which is not accepted")
        frame.pts = None  # headers lie about time; samples follow each other
        for resampled in resampler.resample(frame):
            yield resampled.to_ndarray().tobytes()
    for resampled in resampler.resample(None):
        yield resampled.to_ndarray().tobytes()


def main() -> int:
    """Decode standard input to standard output; returns the exit status."""
    av.logging.set_level(None)
    limit_resources()
    try:
        container = open_input()
        seconds = 0.0
        for block in samples(container):
            sys.stdout.buffer.write(block)
            seconds += len(block) / 4 / RATE_HZ
        sys.stdout.buffer.flush()
        declared = (container.duration or 0) / av.time_base
        if declared > seconds + TOLERATED_MISSING_SECONDS:
            raise UndecodableError(f"the file ends early: it declares {declared:.1f} s")
    except UndecodableError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except av.error.FFmpegError as error:
        sys.stdout.buffer.flush()
        print(f"damaged or truncated ({error.strerror})", file=sys.stderr)  # noqa: T201
        return 1
    except MemoryError:
        print("needs more memory to decode than is allowed", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
