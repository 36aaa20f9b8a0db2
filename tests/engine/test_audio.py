import gzip
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.engine.recordings import CLIPS, correlation, encode, film, tone, wav
from transcriber_engine import audio
from transcriber_engine.audio import SAMPLE_RATE_HZ, AudioLimits, check_pcm, decode
from transcriber_engine.errors import Refusal, RequestError

LIMITS = AudioLimits(max_bytes=1 << 26, max_seconds=3600)
TONE = tone(2.0)
S16 = (TONE * 32767).astype("<i2")
SPEECH = CLIPS / "en-quick-brown-fox.flac"


def decoded(data: bytes, limits: AudioLimits = LIMITS) -> tuple[np.ndarray, list[str]]:
    source = decode(data, limits)
    return np.concatenate(list(source.blocks())), source.warnings


def refusal(data: bytes, limits: AudioLimits = LIMITS) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decoded(data, limits)
    assert caught.value.field == "AUDIO"
    return caught.value


def children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread may end while it is looked at
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def stereo_s24() -> bytes:
    frames = np.repeat((TONE * (2**23 - 1)).astype("<i4"), 2)
    packed = np.frombuffer(frames.tobytes(), np.uint8).reshape(-1, 4)[:, :3]
    return wav(np.frombuffer(packed.tobytes(), "V3"), channels=2)


HIGH = tone(2.0, 44_100)
FORMATS = {
    "wav u8": lambda: wav(((TONE + 1) * 127.5).astype("u1")),
    "wav s16": lambda: wav(S16),
    "wav s24 stereo": stereo_s24,
    "wav s32": lambda: wav((TONE.astype(np.float64) * (2**31 - 1)).astype("<i4")),
    "wav f32": lambda: wav(TONE.astype("<f4"), tag=3),
    "wav f64": lambda: wav(TONE.astype("<f8"), tag=3),
    "wav mu-law": lambda: encode(tone(2.0, 8000), "wav", "pcm_mulaw", 8000, "s16"),
    "aiff big endian": lambda: encode(HIGH, "aiff", "pcm_s16be", 44_100, "s16"),
    "au": lambda: encode(HIGH, "au", "pcm_s16be", 44_100, "s16"),
    "caf": lambda: encode(HIGH, "caf", "pcm_s16le", 44_100, "s16"),
    "w64": lambda: encode(HIGH, "w64", "pcm_s16le", 44_100, "s16"),
    "mp3": lambda: encode(HIGH, "mp3", "libmp3lame", 44_100, "fltp"),
    "flac": lambda: encode(HIGH, "flac", "flac", 44_100, "s16"),
    "ogg opus": lambda: encode(tone(2.0, 48_000), "ogg", "libopus", 48_000, "flt"),
    "webm opus": lambda: encode(tone(2.0, 48_000), "webm", "libopus", 48_000, "flt"),
    "m4a": lambda: encode(HIGH, "ipod", "aac", 44_100, "fltp"),
    "aac": lambda: encode(HIGH, "adts", "aac", 44_100, "fltp"),
    "film": lambda: film(TONE),
    **{f"wav {rate} Hz": lambda rate=rate: wav((tone(2.0, rate) * 32767).astype("<i2"), rate) for rate in (8000, 11_025, 96_000)},
    **{f"wav {n} channels": lambda n=n: wav(np.repeat(S16, n), channels=n) for n in (2, 6, 24)},
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_supported_format_when_decoded_gives_the_original_waveform(name):
    samples, warnings = decoded(FORMATS[name]())
    assert warnings == []
    assert samples.dtype == np.float32
    assert abs(samples.shape[0] - TONE.shape[0]) < 0.11 * SAMPLE_RATE_HZ  # encoders pad
    assert correlation(samples, TONE) > 0.98
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.06)  # mixing down neither adds up nor halves


REFUSED = {
    "no bytes": (b"", "is empty"),
    "one byte": (b"R", "not a supported audio file"),
    "wav header alone": (wav(S16[:0]), "no audio samples"),
    "wav header cut": (wav(S16)[:30], "not a supported audio file"),
    "zero channels": (wav(S16, channels=0), ""),
    "64 channels": (wav(np.repeat(S16, 64), channels=64), "64 channels"),
    "rate 0": (wav(S16, 0), ""),
    "rate -1": (wav(S16, -1), ""),
    "rate 2^31": (wav(S16, 2**31), ""),
    "rate 2^31 - 1": (wav(S16, 2**31 - 1), ""),
    "rate 10 Hz": (wav(S16, 10), "at 10 Hz"),
    "noise": (np.random.default_rng(1).bytes(50_000), "not a supported audio file"),
    "text": (b"It was the best of times. " * 500, "not a supported audio file"),
    "zip": (b"PK\x03\x04" + bytes(5000), "not a supported audio file"),
    "gzip of silence": (gzip.compress(bytes(10_000_000)), "not a supported audio file"),
    "m4a without its index": (FORMATS["m4a"]()[:10_000], "index is missing"),
    "NaN": (wav(np.where(np.arange(TONE.size) == 9, np.nan, TONE).astype("<f4"), tag=3), "NaN or infinite"),
    "infinity": (wav(np.where(np.arange(TONE.size) == 9, np.inf, TONE).astype("<f4"), tag=3), "NaN or infinite"),
    "1e38": (wav((TONE * np.float32(1e38)).astype("<f4"), tag=3), "beyond ±16"),
    "picture": (None, "not a supported audio file"),
    "address": (b"https://example.com/talk.mp3\n", "is an address"),
    "file address": (b"file:///etc/passwd\n", "is an address"),
    "m3u8": (b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", "is a playlist"),
    "pls": (b"[playlist]\nFile1=/etc/passwd\n", "is a playlist"),
    "concat": (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "is a playlist"),
    "dash": (b"<?xml version='1.0'?><MPD><Period><BaseURL>file:///etc/passwd</BaseURL></Period></MPD>", "is a playlist"),
    "sdp": (b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n", "not a supported audio file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_input_that_is_no_audio_when_decoded_is_refused_with_a_sentence(name):
    data, sentence = REFUSED[name]
    if data is None:
        data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\x02\0\0\0" + bytes(1000)
    error = refusal(data)
    assert error.refusal is Refusal.INVALID_ARGUMENT
    assert sentence in str(error)


@pytest.mark.parametrize("count", [1, 160])
def test_a_few_samples_when_decoded_are_given_as_they_are(count):
    samples, _ = decoded(wav(S16[:count]))
    assert samples.shape[0] == count


@pytest.mark.parametrize("declared", [0, 2**31 - 1, 2**32 - 1])
def test_wav_of_a_writer_that_did_not_know_the_length_when_decoded_is_whole_without_warning(declared):
    samples, warnings = decoded(wav(S16, declared=declared))
    assert (samples.shape[0], warnings) == (S16.size, [])


def test_wav_with_an_odd_byte_at_its_end_when_decoded_gives_all_whole_samples():
    assert decoded(wav(S16) + b"\0")[0].shape[0] == S16.size


@pytest.mark.parametrize("name", ["wav s16", "mp3", "flac", "ogg opus", "webm opus", "aac", "film"])
def test_truncated_file_when_decoded_gives_its_good_part_or_a_refusal_never_more(name):
    data = FORMATS[name]()
    whole, _ = decoded(data)
    for tenth in range(1, 10):
        try:
            samples, warnings = decoded(data[: len(data) * tenth // 10])
        except RequestError:
            continue
        assert samples.shape[0] <= whole.shape[0]
        if name in ("wav s16", "flac"):  # their headers say how much there should be
            assert len(warnings) == 1
            assert f"decoded {samples.shape[0] / SAMPLE_RATE_HZ:.1f} s" in warnings[0]


def test_file_with_damage_in_the_middle_when_decoded_gives_what_follows_the_damage_too():
    data = bytearray(FORMATS["mp3"]())
    middle = len(data) // 2
    data[middle : middle + 500] = np.random.default_rng(2).bytes(500)
    samples, warnings = decoded(bytes(data))
    assert samples.shape[0] > 0.8 * TONE.size
    assert "damaged" in " ".join(warnings)


@pytest.mark.parametrize("name", ["flac", "mp3", "ogg opus"])
def test_two_files_joined_when_decoded_give_both(name):
    single, _ = decoded(FORMATS[name]())
    joined, _ = decoded(FORMATS[name]() * 2)
    assert joined.shape[0] > 1.9 * single.shape[0]


def test_file_under_the_wrong_name_when_decoded_is_known_by_its_content():
    mp3_with_a_large_tag = b"ID3\x04\0\0" + bytes([0, 0x40, 0, 0]) + bytes(1 << 20) + FORMATS["mp3"]()
    assert correlation(decoded(mp3_with_a_large_tag)[0], TONE) > 0.98


@pytest.mark.parametrize(("extra", "is_refused"), [(-1, False), (0, False), (1, True)])
def test_limit_of_bytes_at_the_border_accepts_the_limit_and_refuses_one_more(extra, is_refused):
    data = wav(S16)
    limits = AudioLimits(max_bytes=len(data) - extra, max_seconds=60)
    if is_refused:
        assert refusal(data, limits).refusal is Refusal.OUT_OF_RANGE
    else:
        assert decoded(data, limits)[0].shape[0] == S16.size


@pytest.mark.parametrize(("extra", "is_refused"), [(-1, False), (0, False), (1, True)])
def test_limit_of_seconds_at_the_border_accepts_the_limit_and_refuses_one_sample_more(extra, is_refused):
    samples = np.zeros(SAMPLE_RATE_HZ * 3 + extra, dtype="<i2")
    limits = AudioLimits(max_bytes=1 << 20, max_seconds=3)
    if is_refused:
        error = refusal(wav(samples), limits)
        assert error.refusal is Refusal.OUT_OF_RANGE
        assert "longer than 3 s" in str(error)
    else:
        assert decoded(wav(samples), limits)[0].shape[0] == samples.size


def test_bomb_when_decoded_is_stopped_at_the_limit_and_its_decoder_is_gone():
    bomb = bytearray(encode(np.zeros(SAMPLE_RATE_HZ * 600, np.float32), "flac", "flac", SAMPLE_RATE_HZ, "s16"))
    assert len(bomb) < 200 * 600  # bytes for each second, where speech takes thousands
    bomb[21] &= 0xF0  # STREAMINFO's count of samples: unknown
    bomb[22:26] = bytes(4)
    before = children()
    blocks = decode(bytes(bomb), AudioLimits(1 << 20, 60)).blocks()
    for _ in range(60):
        next(blocks)
    with pytest.raises(RequestError) as caught:
        next(blocks)
    assert caught.value.refusal is Refusal.OUT_OF_RANGE
    assert children() == before


@pytest.mark.parametrize("name", ["flac", "wav s16", "m4a"])
def test_audio_whose_header_tells_that_it_is_too_long_when_decoded_is_refused_before_its_first_sample(name):
    blocks = decode(FORMATS[name](), AudioLimits(1 << 20, 0.9)).blocks()
    with pytest.raises(RequestError, match="longer than 1 s") as caught:
        next(blocks)
    assert caught.value.refusal is Refusal.OUT_OF_RANGE


@pytest.mark.parametrize("name", [name for name in FORMATS if "channels" not in name])
def test_what_a_header_announces_is_known_from_the_first_block_on(name):
    source = decode(FORMATS[name](), LIMITS)
    next(source.blocks())
    assert source.announced_seconds == pytest.approx(2.0, abs=0.06)


def test_a_flac_whose_header_lies_beyond_the_limit_when_decoded_is_refused_by_its_own_word():
    lie = bytearray(FORMATS["flac"]())
    lie[21] |= 0x0F
    with pytest.raises(RequestError, match="longer than 1 h"):
        next(decode(bytes(lie), LIMITS).blocks())


def test_consumer_that_stops_early_leaves_no_decoder_behind():
    before = children()
    blocks = decode(wav(np.tile(S16, 200)), LIMITS).blocks()
    next(blocks)
    assert len(children() - before) == 1
    blocks.close()
    assert children() == before


def test_slow_consumer_holds_the_decoder_back_so_that_nothing_piles_up():
    half_an_hour = encode(np.zeros(SAMPLE_RATE_HZ * 1800, np.float32), "flac", "flac", SAMPLE_RATE_HZ, "s16")
    before = children()
    blocks = decode(half_an_hour, LIMITS).blocks()
    for _ in range(900):
        next(blocks)
    [child] = children() - before
    [peak] = [line for line in Path(f"/proc/{child}/status").read_text().splitlines() if line.startswith("VmHWM")]
    blocks.close()
    assert int(peak.split()[1]) < 100_000  # kilobytes, FFmpeg's own included; the samples alone are 115 MB


def test_decoder_that_is_killed_gives_a_refusal_and_no_partial_text():
    before = children()
    source = decode(wav(np.tile(S16, 400)), LIMITS)
    blocks = source.blocks()
    next(blocks)
    [child] = children() - before
    os.kill(child, signal.SIGKILL)
    with pytest.raises(RequestError, match="SIGKILL") as caught:
        list(blocks)
    assert caught.value.refusal is Refusal.RESOURCE_EXHAUSTED
    assert source.warnings == []
    assert children() == before


def test_decoder_that_hangs_is_ended_and_named(monkeypatch):
    monkeypatch.setattr(audio, "IDLE_SECONDS", 0.05)
    started = threading.Event()
    start = audio._start

    def stopped(*arguments):
        child = start(*arguments)
        os.kill(child.pid, signal.SIGSTOP)
        started.set()
        return child

    monkeypatch.setattr(audio, "_start", stopped)
    before = children()
    assert "gave nothing" in str(refusal(wav(S16)))
    assert started.is_set()
    assert children() == before


def test_decoder_that_cannot_start_is_our_failure_and_not_the_callers(monkeypatch, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no module named av >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("TRANSCRIBER_PYTHON", str(broken))
    with pytest.raises(RuntimeError, match="status 1: no module named av"):
        decoded(wav(S16))


def test_interpreter_of_the_decoder_when_embedded_is_taken_from_the_environment(monkeypatch):
    monkeypatch.setenv("TRANSCRIBER_PYTHON", sys.executable)
    monkeypatch.setattr(sys, "executable", "")
    assert decoded(wav(S16))[0].shape[0] == S16.size


def test_real_speech_when_sent_in_another_container_sounds_the_same():
    speech, _ = decoded(SPEECH.read_bytes())
    again, _ = decoded(encode(speech, "ogg", "libopus", 16_000, "flt"))
    assert correlation(again, speech) > 0.9


BAD_PCM = {
    "empty": (np.zeros(0, np.float32), Refusal.INVALID_ARGUMENT),
    "rank 2": (np.zeros((1, 5), np.float32), Refusal.INVALID_ARGUMENT),
    "rank 3": (np.zeros((1, 5, 1), np.float32), Refusal.INVALID_ARGUMENT),
    "float64": (np.zeros(5), Refusal.INVALID_ARGUMENT),
    "int16": (np.zeros(5, np.int16), Refusal.INVALID_ARGUMENT),
    "bytes": (np.zeros(5, np.object_), Refusal.INVALID_ARGUMENT),
    "NaN": (np.array([0, np.nan], np.float32), Refusal.INVALID_ARGUMENT),
    "infinity": (np.array([0, -np.inf], np.float32), Refusal.INVALID_ARGUMENT),
    "1e38": (np.array([0, 1e38], np.float32), Refusal.INVALID_ARGUMENT),
    "integers as floats": (np.array([0, -32768], np.float32), Refusal.INVALID_ARGUMENT),
    "one sample too long": (np.zeros(SAMPLE_RATE_HZ * 3 + 1, np.float32), Refusal.OUT_OF_RANGE),
}


@pytest.mark.parametrize("name", BAD_PCM)
def test_bad_pcm_when_checked_is_refused_with_the_field(name):
    samples, expected = BAD_PCM[name]
    with pytest.raises(RequestError) as caught:
        check_pcm(samples, AudioLimits(1, 3))
    assert (caught.value.field, caught.value.refusal) == ("PCM", expected)


def test_good_pcm_when_checked_passes_unchanged_up_to_the_limit():
    samples = np.full(SAMPLE_RATE_HZ * 3, 1e-40, np.float32)  # denormal numbers are numbers
    assert np.array_equal(check_pcm(samples, AudioLimits(1, 3)), samples)
