"""Audio decoding, log-mel, cutting and stitching: what good and bad audio becomes before any model sees it."""

import io
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import srt
import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from tests.engine.conftest import CLIPS, read_clip
from transcriber_engine.audio import SAMPLE_RATE_HZ, AudioLimits, Samples, check_pcm, decode
from transcriber_engine.errors import Refusal, RequestError
from transcriber_engine.longform import EverythingIsSpeech, Window, WindowCutter, cut, stitch
from transcriber_engine.mel import log_mel
from transcriber_engine.result import Segment, Speculation, Transcript, to_srt, to_vtt

LIMITS = AudioLimits(max_bytes=10_000_000, max_seconds=60)
FORMATS = [
    ("wav", "pcm_s16le"),
    ("wav", "pcm_s24le"),
    ("wav", "pcm_f32le"),
    ("wav", "pcm_f64le"),
    ("wav", "pcm_mulaw"),
    ("mp3", "libmp3lame"),
    ("flac", "flac"),
    ("ogg", "libopus"),
    ("mp4", "aac"),
    ("webm", "libopus"),
    ("aiff", "pcm_s16be"),
]


def tone(seconds: float, rate_hz: int = SAMPLE_RATE_HZ, channels: int = 1) -> Samples:
    wave = 0.4 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate_hz)) / rate_hz)
    return np.tile(wave.astype(np.float32), (channels, 1))


def encode(container: str, codec: str, samples: Samples, rate_hz: int, layout: str) -> bytes:
    """Write [channels, samples] as a file in memory."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate_hz)
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T.reshape(1, -1)), format="flt", layout=layout)
        frame.sample_rate = rate_hz
        resampler = av.AudioResampler(stream.format.name, layout, rate_hz, frame_size=stream.codec_context.frame_size or 1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return target.getvalue()


def decoded(data: bytes, limits: AudioLimits = LIMITS) -> tuple[Samples, list[str]]:
    audio = decode(data, limits)
    blocks = list(audio.blocks())
    return np.concatenate(blocks), audio.warnings


@pytest.mark.parametrize(("container", "codec"), FORMATS, ids=[f"{c} {k}" for c, k in FORMATS])
def test_every_accepted_format_decodes_to_the_same_sound(container: str, codec: str) -> None:
    rate_hz = 48_000 if codec == "libopus" else 44_100
    samples, warnings = decoded(encode(container, codec, tone(2, rate_hz, 2), rate_hz, "stereo"))
    assert warnings == []
    assert abs(samples.shape[0] / SAMPLE_RATE_HZ - 2) < 0.1
    spectrum = np.abs(np.fft.rfft(samples[8000:24000]))
    assert np.argmax(spectrum) == 440
    assert 0.3 < np.abs(samples[8000:24000]).max() < 0.65  # equal channels add up to 3 dB when mixed down


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 44_100, 96_000])
def test_any_rate_is_resampled(rate_hz: int) -> None:
    samples, _ = decoded(encode("wav", "pcm_s16le", tone(1, rate_hz), rate_hz, "mono"))
    assert abs(samples.shape[0] - SAMPLE_RATE_HZ) <= 32


def test_surround_sound_is_mixed_down() -> None:
    samples, _ = decoded(encode("wav", "pcm_s16le", tone(1, channels=6), SAMPLE_RATE_HZ, "5.1"))
    assert samples.shape[0] == SAMPLE_RATE_HZ


WAV = encode("wav", "pcm_s16le", tone(3), SAMPLE_RATE_HZ, "mono")
REFUSED = {
    "nothing": (b"", "AUDIO: is empty"),
    "text": (b"hello, world, this is no audio at all" * 9, "AUDIO: is not a supported audio file"),
    "an address": (b"https://example.org/audio.mp3", "AUDIO: is an address"),
    "a playlist": (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "AUDIO: is "),
    "a concat script": (b"ffconcat version 1.0\nfile /etc/passwd\n", "AUDIO: is "),
    "a header alone": (WAV[:44], "AUDIO: "),
    "half a header": (WAV[:20], "AUDIO: "),
    "no channels": (WAV[:22] + b"\0\0" + WAV[24:], "AUDIO: "),
    "no rate": (WAV[:24] + b"\0\0\0\0" + WAV[28:], "AUDIO: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_audio_is_refused_by_name(name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(RequestError) as caught:
        decoded(data)
    assert str(caught.value).startswith(message)
    assert caught.value.refusal is Refusal.INVALID_ARGUMENT


@pytest.mark.parametrize(("container", "codec", "warned"), [("wav", "pcm_s16le", True), ("flac", "flac", True)])
def test_a_truncated_file_gives_its_good_part(container: str, codec: str, warned: bool) -> None:
    whole = encode(container, codec, tone(9), SAMPLE_RATE_HZ, "mono")
    samples, warnings = decoded(whole[: len(whole) // 2])
    assert 3 < samples.shape[0] / SAMPLE_RATE_HZ < 6
    assert bool(warnings) == warned


def test_a_truncated_mp4_is_refused_since_its_index_stands_at_the_end() -> None:
    whole = encode("mp4", "aac", tone(9), SAMPLE_RATE_HZ, "mono")
    with pytest.raises(RequestError, match="AUDIO: "):
        decoded(whole[: len(whole) // 2])


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_lying_size_does_not_change_the_sound(size: int) -> None:
    lie = WAV[:4] + size.to_bytes(4, "little") + WAV[8:]
    samples, _ = decoded(lie)
    assert samples.shape[0] == 3 * SAMPLE_RATE_HZ


def test_limits_accept_their_value_and_refuse_one_more() -> None:
    exactly = AudioLimits(len(WAV), 3)
    assert decoded(WAV, exactly)[0].shape[0] == 3 * SAMPLE_RATE_HZ
    for limits, words in ((AudioLimits(len(WAV) - 1, 3), "bytes"), (AudioLimits(len(WAV), 3 - 1 / SAMPLE_RATE_HZ), "longer than")):
        with pytest.raises(RequestError, match=words) as caught:
            decoded(WAV, limits)
        assert caught.value.refusal is Refusal.OUT_OF_RANGE


def test_a_bomb_is_stopped_at_the_limit_of_seconds() -> None:
    bomb = encode("flac", "flac", np.zeros((1, 3600 * 8_000), np.float32), 8_000, "mono")
    assert len(bomb) < 700_000  # an hour
    with pytest.raises(RequestError, match="longer than 1 min"):
        decoded(bomb)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0, np.float32), "is empty"),
        (np.zeros((2, 9), np.float32), "one dimension"),
        (np.zeros(9, np.float64), "float64"),
        (np.array([0, np.nan], np.float32), "NaN"),
        (np.array([0, np.inf], np.float32), "NaN or infinite"),
        (np.array([0, 1e38], np.float32), "beyond"),
        (np.zeros(60 * SAMPLE_RATE_HZ + 1, np.float32), "longer than 1 min"),
    ],
)
def test_bad_samples_are_refused(samples: np.ndarray, message: str) -> None:
    with pytest.raises(RequestError, match=f"PCM: .*{message}"):
        check_pcm(samples, LIMITS)


def test_log_mel_equals_hugging_face() -> None:
    clip = read_clip("en-quick-brown-fox.flac")
    for bins in (80, 128):
        theirs = WhisperFeatureExtractor(feature_size=bins)(clip, sampling_rate=SAMPLE_RATE_HZ, return_tensors="np").input_features[
            0
        ]
        assert np.abs(log_mel(clip, bins) - theirs).max() < 1e-4


class Scripted:
    """A detector that knows where speech is: [start, end) in seconds."""

    def __init__(self, spans: Sequence[tuple[float, float]]) -> None:
        self.spans, self.frame = spans, 0

    def probabilities(self, frames: Samples) -> np.ndarray:
        times = (self.frame + np.arange(frames.shape[0] // 512)) * 512 / SAMPLE_RATE_HZ
        self.frame += times.shape[0]
        return np.array([float(any(a <= t < b for a, b in self.spans)) for t in times], np.float32)


spans_of_speech = st.lists(st.tuples(st.floats(0.2, 40), st.floats(0.4, 9)), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(spans_of_speech, st.integers(5, 30), st.integers(400, 40_000))
def test_windows_hold_all_speech_once_and_in_order(parts: list[tuple[float, float]], limit_seconds: int, block: int) -> None:
    spans, clock = [], 0.0
    for length, pause in parts:
        spans.append((clock, clock + length))
        clock += length + pause
    audio = np.arange(int(clock * SAMPLE_RATE_HZ), dtype=np.float32)

    def windows(size: int) -> list[Window]:
        blocks = (audio[i : i + size] for i in range(0, audio.shape[0], size))
        return list(cut(blocks, WindowCutter(limit_seconds * SAMPLE_RATE_HZ, Scripted(spans))))

    found = windows(block)
    end = 0
    for number, window in enumerate(found):
        assert window.index == number
        assert window.start_sample >= end
        assert 0 < window.samples.shape[0] <= limit_seconds * SAMPLE_RATE_HZ
        np.testing.assert_array_equal(window.samples, audio[window.start_sample :][: window.samples.shape[0]])
        end = window.start_sample + window.samples.shape[0]
    covered = np.zeros(audio.shape[0], bool)
    for window in found:
        covered[window.start_sample :][: window.samples.shape[0]] = True
    for a, b in spans:  # up to the frame that holds its edges
        assert covered[int(a * SAMPLE_RATE_HZ) + 1024 : int(b * SAMPLE_RATE_HZ) - 1024].all()
    assert [w.start_sample for w in windows(7_777)] == [w.start_sample for w in found]


def test_silence_gives_no_window_and_speech_is_found() -> None:
    def count(samples: Samples) -> int:
        return len(list(cut([samples], WindowCutter(30 * SAMPLE_RATE_HZ))))

    noise = np.random.default_rng(0).normal(0, 0.01, 10 * SAMPLE_RATE_HZ).astype(np.float32)
    assert count(np.zeros(10 * SAMPLE_RATE_HZ, np.float32)) == 0
    assert count(noise) == 0
    assert count(np.full(10 * SAMPLE_RATE_HZ, 0.5, np.float32)) == 0
    assert count(read_clip("en-two-cities.flac")) >= 1


def test_without_detection_audio_is_cut_by_length_alone() -> None:
    audio = np.random.default_rng(0).normal(0, 0.1, 70 * SAMPLE_RATE_HZ).astype(np.float32)
    windows = list(cut([audio], WindowCutter(30 * SAMPLE_RATE_HZ, EverythingIsSpeech())))
    assert sum(window.samples.shape[0] for window in windows) == audio.shape[0]
    assert len(windows) >= 3


def segment(start: float, end: float, text: str) -> Segment:
    return Segment(
        id=0, start_seconds=start, end_seconds=end, text=text, tokens=(1,), avg_logprob=0, no_speech_prob=0, compression_ratio=1
    )


def test_stitching_gives_true_times_and_subtitles_that_others_read() -> None:
    first = Window(0, 0, np.zeros(SAMPLE_RATE_HZ, np.float32))
    second = Window(1, 3_600_000 * 16 + 8_000, np.zeros(SAMPLE_RATE_HZ, np.float32))
    segments = stitch([(first, [segment(0, 0.5, " One -->\n\ntwo.")]), (second, [segment(0.25, 0.75, " Three.")])])
    assert [(s.id, s.start_seconds, s.end_seconds) for s in segments] == [(0, 0, 0.5), (1, 3600.75, 3601.25)]
    transcript = Transcript(text="", language="en", duration_seconds=3602, segments=segments, speculation=Speculation())
    cues = list(srt.parse(to_srt(transcript)))
    assert [cue.content for cue in cues] == ["One → two.", "Three."]
    assert cues[1].start.total_seconds() == 3600.75
    captions = webvtt.from_string(to_vtt(transcript)).captions
    assert [(c.start, c.text) for c in captions] == [("00:00:00.000", "One → two."), ("01:00:00.750", "Three.")]


def test_leaving_early_ends_the_decoder() -> None:
    data = (CLIPS / "en-two-cities.flac").read_bytes()
    blocks = decode(data, LIMITS).blocks()
    next(iter(blocks))
    before = {path.name for path in Path("/proc").iterdir() if path.name.isdigit()}
    blocks.close()  # type: ignore[attr-defined]
    gone = before - {path.name for path in Path("/proc").iterdir() if path.name.isdigit()}
    assert gone
