"""What a caller may send that is no plain recording, and what the server answers: the cases of the tests and of `docs/audio.md`.

`python -m tests.triton.bad_inputs` prints the table of the documentation.
"""

import gzip
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from tritonclient.grpc import service_pb2 as kserve

from tests.engine.recordings import CLIPS, RATE_HZ, encode, film, wav
from tests.triton.client import Tensor, audio, floats, options, request, string
from tests.triton.recordings import samples_of

MAX_AUDIO_SECONDS = 305
MAX_AUDIO_BYTES = 10_000_000

FOX_FILE = CLIPS / "en-quick-brown-fox.flac"
FOX = "The quick brown fox jumps over the lazy dog."
INVALID, BAD = "INVALID_ARGUMENT", "[INVALID_ARGUMENT]"
TOO_LONG = "is longer than 5 min 5 s (spec.runtime.maxAudioSeconds); send it in parts [OUT_OF_RANGE]"


@dataclass(frozen=True)
class Case:
    """An input and its answer: `says` is the text where the code is OK, else the message, with … for what is left out."""

    group: str
    name: str
    message: Callable[[], kserve.ModelInferRequest]
    code: str
    says: str
    warning: str = ""

    def is_said_by(self, message: str) -> bool:
        return re.fullmatch(".*".join(re.escape(part) for part in self.says.split("…")), message) is not None


def fox() -> np.ndarray:
    return samples_of(FOX_FILE)


def fox_16() -> np.ndarray:
    return (fox() * 32767).astype("<i2")


def fox_at(rate_hz: int) -> bytes:
    return encode(resampled(fox(), rate_hz), "wav", "pcm_s16le", rate_hz, "s16")


def resampled(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Band-limited by the Fourier transform."""
    spectrum, count = np.fft.rfft(samples), round(samples.shape[0] * rate_hz / RATE_HZ)
    return (np.fft.irfft(spectrum, count) * (count / samples.shape[0])).astype(np.float32)


def noise(seconds: int) -> np.ndarray:
    return (np.random.default_rng(1).standard_normal(seconds * RATE_HZ) * 0.1).astype(np.float32)


def sine(seconds: int, amplitude: float = 0.5, hz: float = 50.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(seconds * RATE_HZ) / RATE_HZ)).astype(np.float32)


def silence(seconds: float, rate_hz: int = RATE_HZ) -> bytes:
    return encode(np.zeros(round(seconds * rate_hz), np.float32), "flac", "flac", rate_hz, "s16")


def unknown_length(content: bytes) -> bytes:
    """A FLAC file without its count of samples, as writers of streams leave it."""
    changed = bytearray(content)
    changed[21] &= 0xF0
    changed[22:26] = bytes(4)
    return bytes(changed)


def claims_36_hours(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[22:26] = (36 * 3600 * RATE_HZ).to_bytes(4, "big")
    return bytes(changed)


def of_bytes(count: int) -> bytes:
    """A recording of exactly so many bytes: silence in 16 bits, two channels, 48 kHz."""
    return wav(np.zeros((count - 44) // 2, "<i2"), 48_000, channels=2)[: count - count % 2] + b"\0" * (count % 2)


def cut_fox() -> bytes:
    whole = FOX_FILE.read_bytes()
    return whole[: len(whole) * 7 // 10]


def with_nan(samples: np.ndarray) -> np.ndarray:
    changed = samples.copy()
    changed[samples.shape[0] // 2] = np.nan
    return changed


def case(group: str, name: str, content: Callable[[], bytes | np.ndarray], code: str, says: str, warning: str = "") -> Case:
    return Case(group, name, lambda: audio(content()), code, says, warning)


def chosen(name: str, code: str, says: str, **values: object) -> Case:
    return Case("options", name, lambda: audio(fox(), **values), code, says)


def written(name: str, text: bytes, says: str) -> Case:
    return Case("options", name, lambda: request(floats("PCM", fox()), string("OPTIONS", text)), INVALID, says)


def shaped(name: str, says: str, *tensors: Tensor, output: str = "RESULT", code: str = INVALID) -> Case:
    return Case("tensors", name, lambda: request(*tensors, output=output), code, says)


NO_AUDIO = f"AUDIO: is not a supported audio file, …; send wav, mp3, flac, ogg, webm, m4a or aac {BAD}"
PLAYLIST = f"AUDIO: is a playlist, which is not accepted; send the bytes of the recording itself {BAD}"
ADDRESS = f"AUDIO: is an address, which is not accepted; send the bytes of the recording itself {BAD}"
VALUES = f"holds NaN or infinite samples {BAD}"
ONE_OF_TWO = f"AUDIO: send exactly one of AUDIO (bytes of a file) and PCM (float32, mono, 16 kHz) {BAD}"
PCM = floats("PCM", np.zeros(4))

RECORDINGS = (
    case("empty", "no bytes", lambda: b"", INVALID, f"AUDIO: is empty {BAD}"),
    case("empty", "a wav header alone", lambda: wav(fox_16()[:0]), INVALID, f"AUDIO: holds no audio samples {BAD}"),
    case("empty", "no samples", lambda: np.zeros(0, np.float32), INVALID, f"PCM: is empty {BAD}"),
    case("empty", "one sample", lambda: wav(fox_16()[:1]), "OK", ""),
    case("empty", "10 ms", lambda: wav(fox_16()[:160]), "OK", ""),
    case("no speech", "30 s of zeros", lambda: silence(30), "OK", ""),
    case("no speech", "30 s of white noise", lambda: noise(30), "OK", ""),
    case("no speech", "10 s of a constant 0.5", lambda: np.full(10 * RATE_HZ, 0.5, np.float32), "OK", ""),
    case("no speech", "10 s of mains hum, clipped", lambda: np.clip(sine(10, 8.0), -1, 1), "OK", ""),
    case("no speech", "10 s of a 1 kHz tone", lambda: sine(10, hz=1000.0), "OK", ""),
    case("no speech", "10 s of denormal numbers", lambda: np.full(10 * RATE_HZ, 1e-40, np.float32), "OK", ""),
    case("values", "a NaN among samples", lambda: with_nan(fox()), INVALID, f"PCM: {VALUES}"),
    case("values", "an infinite sample", lambda: np.array([0, np.inf], np.float32), INVALID, f"PCM: {VALUES}"),
    case("values", "a NaN in a wav of floats", lambda: wav(with_nan(fox()), tag=3), INVALID, f"AUDIO: {VALUES}"),
    case(
        "values",
        "a sample of 1e38",
        lambda: np.array([0, 1e38], np.float32),
        INVALID,
        f"PCM: holds samples beyond ±16; full scale is ±1.0 {BAD}",
    ),
    *(case("rates", f"{rate} Hz", lambda rate=rate: fox_at(rate), "OK", FOX) for rate in (8_000, 11_025, 44_100, 96_000)),
    *(case("rates", f"a rate of {rate}", lambda rate=rate: wav(fox_16(), rate), INVALID, NO_AUDIO) for rate in (0, -1, 2**31)),
    *(case("channels", f"{n}", lambda n=n: wav(np.repeat(fox_16(), n), channels=n), "OK", FOX) for n in (2, 6)),
    case(
        "channels",
        "64",
        lambda: wav(np.repeat(fox_16(), 64), channels=64),
        INVALID,
        f"AUDIO: has 64 channels at 16000 Hz; send 1 to 24 channels at 1000 to 768000 Hz {BAD}",
    ),
    case("channels", "none", lambda: wav(fox_16(), channels=0), INVALID, f"AUDIO: has no audio stream {BAD}"),
    case("formats", "wav of 64-bit floats", lambda: wav(fox().astype("<f8"), tag=3), "OK", FOX),
    case("formats", "wav in mu-law at 8 kHz", lambda: encode(resampled(fox(), 8000), "wav", "pcm_mulaw", 8000, "s16"), "OK", FOX),
    case("formats", "aiff, big endian", lambda: encode(fox(), "aiff", "pcm_s16be", RATE_HZ, "s16"), "OK", FOX),
    case("formats", "m4a", lambda: encode(fox(), "ipod", "aac", RATE_HZ, "fltp"), "OK", FOX),
    case("formats", "ogg with Opus", lambda: encode(resampled(fox(), 48_000), "ogg", "libopus", 48_000, "flt"), "OK", FOX),
    case("formats", "an odd number of bytes", lambda: wav(fox_16()) + b"\0", "OK", FOX),
    case("formats", "a film", lambda: film(fox()), "OK", FOX),
    case(
        "damage", "flac cut to seven tenths", cut_fox, "OK", "The quick brown fox jumps over", warning="cut short: declares 2.9 s"
    ),
    case("damage", "m4a cut before its index", lambda: encode(fox(), "ipod", "aac", RATE_HZ, "fltp")[:8000], INVALID, NO_AUDIO),
    case("damage", "two flac files joined", lambda: FOX_FILE.read_bytes() * 2, "OK", f"{FOX} {FOX}"),
    case(
        "damage",
        "mp3 behind a tag of 1 MiB",
        lambda: b"ID3\x04\0\0\0\x40\0\0" + bytes(1 << 20) + encode(fox(), "mp3", "libmp3lame", RATE_HZ, "fltp"),
        "OK",
        FOX,
    ),
    case("damage", "random bytes", lambda: np.random.default_rng(2).bytes(50_000), INVALID, NO_AUDIO),
    case("damage", "text", lambda: b"It was the best of times. " * 500, INVALID, NO_AUDIO),
    case("damage", "gzip of a recording", lambda: gzip.compress(FOX_FILE.read_bytes()), INVALID, NO_AUDIO),
    case(
        "damage",
        "a picture",
        lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\x02\0\0\0" + bytes(99),
        INVALID,
        NO_AUDIO,
    ),
    case("sizes that lie", "wav that declares 0 bytes", lambda: wav(fox_16(), declared=0), "OK", FOX),
    case("sizes that lie", "wav that declares 4 GiB", lambda: wav(fox_16(), declared=2**32 - 1), "OK", FOX),
    case(
        "sizes that lie",
        "flac of 3 s that claims 36 h",
        lambda: claims_36_hours(FOX_FILE.read_bytes()),
        INVALID,
        f"AUDIO: {TOO_LONG}",
    ),
    case("length", "3 h", lambda: silence(3 * 3600, 1000), INVALID, f"AUDIO: {TOO_LONG}"),
    case(
        "length",
        "longer than the limit, by a header that tells no length",
        lambda: unknown_length(silence(MAX_AUDIO_SECONDS + 30)),
        INVALID,
        f"AUDIO: {TOO_LONG}",
    ),
    case("length", "a file of exactly `maxAudioSeconds`", lambda: silence(MAX_AUDIO_SECONDS), "OK", ""),
    case("length", "a file one sample longer", lambda: silence(MAX_AUDIO_SECONDS + 1 / RATE_HZ), INVALID, f"AUDIO: {TOO_LONG}"),
    case("length", "samples for exactly `maxAudioSeconds`", lambda: np.zeros(MAX_AUDIO_SECONDS * RATE_HZ, np.float32), "OK", ""),
    case("length", "one sample more", lambda: np.zeros(MAX_AUDIO_SECONDS * RATE_HZ + 1, np.float32), INVALID, f"PCM: {TOO_LONG}"),
    case("length", "exactly `maxAudioBytes`", lambda: of_bytes(MAX_AUDIO_BYTES), "OK", ""),
    case(
        "length",
        "one byte more",
        lambda: of_bytes(MAX_AUDIO_BYTES + 1),
        INVALID,
        "AUDIO: has 10000001 bytes; at most 10000000 bytes (spec.runtime.maxAudioBytes) are accepted [OUT_OF_RANGE]",
    ),
    case("addresses", "https://", lambda: b"https://example.com/talk.mp3\n", INVALID, ADDRESS),
    case("addresses", "file://", lambda: b"file:///etc/passwd\n", INVALID, ADDRESS),
    case("addresses", "m3u8", lambda: b"#EXTM3U\n#EXTINF:5,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", INVALID, PLAYLIST),
    case("addresses", "pls", lambda: b"[playlist]\nFile1=/etc/passwd\n", INVALID, PLAYLIST),
    case("addresses", "ffconcat", lambda: b"ffconcat version 1.0\nfile '/etc/passwd'\n", INVALID, PLAYLIST),
    case("addresses", "DASH", lambda: b"<?xml version='1.0'?><MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>", INVALID, PLAYLIST),
)

OPTIONS = (
    chosen(
        "an unknown language",
        INVALID,
        "OPTIONS.language: 'xx' is not a language of this model; known are af, am, … " + BAD,
        language="xx",
    ),
    chosen(
        "a language of 10 kB", INVALID, "OPTIONS.language: String should have at most 3 characters " + BAD, language="x" * 10_000
    ),
    chosen("a language that is a number", INVALID, "OPTIONS.language: Input should be a valid string " + BAD, language=5),
    chosen("an unknown task", INVALID, "OPTIONS.task: Input should be 'transcribe' or 'translate' " + BAD, task="summarize"),
    chosen(
        "timestamps of syllables",
        INVALID,
        "OPTIONS.timestamps: Input should be 'none', 'segment' or 'word' " + BAD,
        timestamps="syllable",
    ),
    chosen(
        "a prompt of 1 MB", INVALID, "OPTIONS.prompt: String should have at most 2000 characters " + BAD, prompt="x" * 1_000_000
    ),
    chosen("control tokens in a prompt", "OK", FOX, prompt="<|endoftext|><|startoftranscript|><|ja|><|translate|>"),
    chosen(
        "too many hotwords",
        INVALID,
        "OPTIONS.hotwords: are … tokens, at most 223 fit; send fewer words " + BAD,
        hotwords="Zyx " * 250,
    ),
    chosen(
        "temperature fallback that is a word",
        INVALID,
        "OPTIONS.temperature_fallback: Input should be a valid boolean " + BAD,
        temperature_fallback="yes",
    ),
    chosen("a negative seed", INVALID, "OPTIONS.seed: Input should be greater than or equal to 0 " + BAD, seed=-1),
    chosen("no time at all", INVALID, "OPTIONS.deadline_seconds: Input should be greater than 0 " + BAD, deadline_seconds=0),
    chosen(
        "too little time",
        "UNAVAILABLE",
        "OPTIONS.deadline_seconds: passed while audio waited to be decoded; allow more seconds, or send less at once "
        "[DEADLINE_EXCEEDED]",
        deadline_seconds=1e-6,
    ),
    chosen("a temperature", INVALID, "OPTIONS.temperature: unknown option; known are language, … " + BAD, temperature=-1),
    chosen("a temperature of NaN", INVALID, "OPTIONS.temperature: unknown option; … " + BAD, temperature=float("nan")),
    chosen("beams", INVALID, "OPTIONS.beam_size: unknown option; … " + BAD, beam_size=10**6),
    chosen(
        "17 draft tokens", INVALID, "OPTIONS.max_draft_tokens: Input should be less than or equal to 16 " + BAD, max_draft_tokens=17
    ),
    chosen(
        "-1 draft tokens",
        INVALID,
        "OPTIONS.max_draft_tokens: Input should be greater than or equal to 0 " + BAD,
        max_draft_tokens=-1,
    ),
    chosen("1.5 draft tokens", INVALID, "OPTIONS.max_draft_tokens: Input should be a valid integer " + BAD, max_draft_tokens=1.5),
    chosen(
        "another detector",
        INVALID,
        "OPTIONS.voice_activity_detection: Input should be 'silero' or 'none' " + BAD,
        voice_activity_detection="x",
    ),
    written("no JSON", b"language=en", "OPTIONS: Invalid JSON: … " + BAD),
    written("a JSON list", b"[]", "OPTIONS: Input should be an object " + BAD),
    written("bytes that are no UTF-8", b'{"language": "\xff"}', "OPTIONS: Invalid JSON: … " + BAD),
)

TENSORS = (
    shaped("neither AUDIO nor PCM", ONE_OF_TWO, options()),
    shaped("AUDIO and PCM", ONE_OF_TWO, string("AUDIO", b"x"), PCM),
    shaped("an unknown tensor", "unexpected inference input 'VIDEO' for model 'transcribe'", PCM, floats("VIDEO", np.zeros(4))),
    shaped("PCM twice", "…input 'PCM' already exists in request", PCM, PCM),
    shaped("AUDIO of floats", "…input 'AUDIO' data-type is 'FP32', …", floats("AUDIO", np.zeros(1))),
    shaped("PCM of float64", "…input 'PCM' data-type is 'FP64', …", ("PCM", "FP64", [4], bytes(32))),
    shaped("PCM of rank 2", "…unexpected shape for input 'PCM' …", floats("PCM", np.zeros((1, 4)))),
    shaped("PCM of rank 3", "…unexpected shape for input 'PCM' …", floats("PCM", np.zeros((1, 4, 1)))),
    shaped("PCM of a negative length", "…byte size mismatch for input 'PCM' …", ("PCM", "FP32", [-4], bytes(16))),
    shaped("PCM with fewer bytes than its shape", "…byte size mismatch for input 'PCM' …", ("PCM", "FP32", [8], bytes(16))),
    shaped("PCM with more bytes than its shape", "…byte size mismatch for input 'PCM' …", ("PCM", "FP32", [2], bytes(16))),
    shaped("two AUDIO", "…unexpected shape for input 'AUDIO' …", ("AUDIO", "BYTES", [2], b"\x01\0\0\0x" * 2)),
    shaped(
        "AUDIO whose length lies", "incomplete string data for inference input 'AUDIO', …", ("AUDIO", "BYTES", [1], b"\xff\0\0\0x")
    ),
    shaped("two OPTIONS", "…unexpected shape for input 'OPTIONS' …", PCM, ("OPTIONS", "BYTES", [2], b"\x02\0\0\0{}" * 2)),
    shaped("another output", "unexpected inference output 'TEXT' for model 'transcribe'", PCM, output="TEXT"),
)

CASES = RECORDINGS + OPTIONS + TENSORS


def table() -> str:
    """The table of the documentation, in Markdown."""
    lines = ["| | sent | gRPC code | transcript, or what the message says |", "| --- | --- | --- | --- |"]
    for group, cases in groupby(CASES, lambda case: case.group):
        for number, each in enumerate(cases):
            said = (f"“{each.says}”" if each.says else "empty") if each.code == "OK" else each.says
            said += f", with a warning: {each.warning}" if each.warning else ""
            lines.append(f"| {group if number == 0 else ''} | {each.name} | {each.code} | {said} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
