from itertools import pairwise

import numpy as np
import pytest
from benchmarks.recordings import recordings, samples_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.recordings import READING, tone
from transcriber_engine.audio import SAMPLE_RATE_HZ
from transcriber_engine.longform import (
    MAX_GAP_SAMPLES,
    MIN_SPEECH_SAMPLES,
    PAD_SAMPLES,
    EverythingIsSpeech,
    Window,
    WindowCutter,
    cut,
    stitch,
)
from transcriber_engine.result import Segment
from transcriber_engine.vad import FRAME_SAMPLES, SpeechDetector

LIMIT = 5 * SAMPLE_RATE_HZ


class LoudIsSpeech:
    """A detector whose answer can be read off the samples: their level is the probability."""

    def probabilities(self, frames):
        return frames.reshape(-1, FRAME_SAMPLES).max(axis=1)


def audio_of(runs: list[tuple[float, int]], rest: int = 0) -> np.ndarray:
    """Build audio from runs of (level, frames), and `rest` samples more of the last level."""
    levels = np.concatenate([np.full(frames * FRAME_SAMPLES, level, np.float32) for level, frames in runs])
    return np.concatenate([levels, np.full(rest, runs[-1][0], np.float32)])


def windows_of(samples: np.ndarray, block: int, limit: int = LIMIT, detector: object = None) -> list[Window]:
    blocks = (samples[start : start + block] for start in range(0, samples.shape[0], block))
    return list(cut(blocks, WindowCutter(limit, detector or LoudIsSpeech())))


RUNS = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.9]), st.integers(1, 180)), min_size=1, max_size=14)


@settings(max_examples=300, deadline=None)
@given(RUNS, st.integers(0, FRAME_SAMPLES - 1), st.sampled_from([LIMIT, 7 * SAMPLE_RATE_HZ, 30 * SAMPLE_RATE_HZ]))
def test_windows_of_any_audio_are_in_order_apart_and_within_the_limit(runs, rest, limit):
    samples = audio_of(runs, rest)
    windows = windows_of(samples, 16_000, limit)
    assert [window.index for window in windows] == list(range(len(windows)))
    for window in windows:
        assert 0 < window.samples.shape[0] <= limit
        end = window.start_sample + window.samples.shape[0]
        assert np.array_equal(window.samples, samples[window.start_sample : end])
    for before, after in pairwise(windows):
        assert before.start_sample + before.samples.shape[0] <= after.start_sample


@settings(max_examples=300, deadline=None)
@given(RUNS, st.integers(0, FRAME_SAMPLES - 1))
def test_speech_longer_than_a_click_is_in_a_window_to_the_last_sample(runs, rest):
    samples = audio_of(runs, rest)
    covered = np.zeros(samples.shape[0], bool)
    for window in windows_of(samples, 16_000):
        covered[window.start_sample : window.start_sample + window.samples.shape[0]] = True
    start = 0
    for level, frames in runs:
        end = start + frames * FRAME_SAMPLES
        if level >= 0.5 and frames >= 4:
            assert covered[start:end].all()
        start = end


@settings(max_examples=60, deadline=None)
@given(RUNS, st.integers(0, FRAME_SAMPLES - 1), st.integers(200, 40_000))
def test_windows_are_the_same_whatever_the_size_of_the_blocks(runs, rest, block):
    samples = audio_of(runs, rest)
    one, other = windows_of(samples, samples.shape[0]), windows_of(samples, block)
    assert [(w.start_sample, w.samples.shape[0]) for w in one] == [(w.start_sample, w.samples.shape[0]) for w in other]


@settings(max_examples=60, deadline=None)
@given(st.integers(MIN_SPEECH_SAMPLES, 2_000_000), st.sampled_from([LIMIT, 30 * SAMPLE_RATE_HZ]))
def test_windows_without_detection_when_joined_are_the_whole_audio(count, limit):
    samples = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    windows = windows_of(samples, 16_000, limit, EverythingIsSpeech())
    assert np.array_equal(np.concatenate([w.samples for w in windows]), samples)


def test_audio_of_exactly_the_limit_is_one_window() -> None:
    cutter = WindowCutter(30 * SAMPLE_RATE_HZ, EverythingIsSpeech())
    [window] = cut([np.ones(30 * SAMPLE_RATE_HZ, dtype=np.float32)], cutter)
    assert window.seconds == 30


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(np.zeros(60 * SAMPLE_RATE_HZ, np.float32), id="silence"),
        pytest.param(np.random.default_rng(0).normal(0, 0.01, 10 * SAMPLE_RATE_HZ).astype(np.float32), id="white noise"),
        pytest.param(np.full(10 * SAMPLE_RATE_HZ, 0.5, np.float32), id="direct current"),
    ],
)
def test_sound_without_speech_gives_no_windows(samples):
    assert windows_of(samples, 16_000, detector=SpeechDetector()) == []


def test_a_click_gives_no_window():
    assert windows_of(audio_of([(0.0, 60), (0.9, 2), (0.0, 60)]), 16_000) == []


def test_speech_between_pauses_shares_a_window_while_it_fits_and_keeps_its_pads():
    samples = audio_of([(0.0, 40), (0.9, 40), (0.0, 15), (0.9, 40), (0.0, 200), (0.9, 30)])
    first, second = windows_of(samples, 16_000)
    assert first.start_sample == 40 * FRAME_SAMPLES - PAD_SAMPLES
    assert first.samples.shape[0] == 95 * FRAME_SAMPLES + 2 * PAD_SAMPLES
    assert second.start_sample == 335 * FRAME_SAMPLES - PAD_SAMPLES
    assert second.start_sample + second.samples.shape[0] == samples.shape[0]


@pytest.mark.parametrize("pause", [10, 14, 25, 40])
def test_windows_that_a_pause_parts_both_have_their_pad_or_half_of_the_pause(pause):
    samples = audio_of([(0.9, 100), (0.0, pause), (0.9, 100)])
    first, second = windows_of(samples, 16_000)
    pad = min(PAD_SAMPLES, pause * FRAME_SAMPLES // 2)
    assert first.samples.shape[0] == 100 * FRAME_SAMPLES + pad
    assert second.start_sample == (100 + pause) * FRAME_SAMPLES - pad


def test_a_full_window_waits_for_the_next_speech_before_it_takes_the_pause_for_its_pad():
    samples = audio_of([(0.9, 140), (0.0, 18), (0.9, 100)])  # the window is full within the pause, before the speech after it
    first, second = windows_of(samples, 16_000)
    assert first.samples.shape[0] == second.start_sample == 149 * FRAME_SAMPLES


@pytest.mark.parametrize("pause", [12, 200])
def test_speech_that_ends_too_close_to_the_limit_for_its_pad_goes_into_the_next_window(pause):
    samples = audio_of([(0.9, 80), (0.0, 20), (0.9, 55), (0.0, pause), (0.9, 50)])  # 155 frames, of which 156 fit
    first, second, *_ = windows_of(samples, 16_000)
    assert first.samples.shape[0] == second.start_sample == 90 * FRAME_SAMPLES
    assert second.start_sample + second.samples.shape[0] >= 155 * FRAME_SAMPLES + min(PAD_SAMPLES, pause * FRAME_SAMPLES // 2)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(4, 60), st.integers(10, 120)), min_size=1, max_size=14))
def test_every_speech_shorter_than_a_third_of_a_window_has_its_pads_or_half_of_the_pauses_around_it(turns):
    samples = audio_of([(0.0, 30), *(run for spoken, pause in turns for run in ((0.9, spoken), (0.0, pause)))])
    covered = np.zeros(samples.shape[0], bool)
    for window in windows_of(samples, 16_000):
        covered[window.start_sample : window.start_sample + window.samples.shape[0]] = True
    start, before = 30 * FRAME_SAMPLES, 30
    for spoken, pause in turns:
        end = start + spoken * FRAME_SAMPLES
        pads = [min(PAD_SAMPLES, frames * FRAME_SAMPLES // 2) for frames in (before, pause)]
        assert covered[start - pads[0] : end + pads[1]].all()
        start, before = end + pause * FRAME_SAMPLES, pause


def test_speech_without_a_pause_is_cut_at_its_quietest_frame_in_the_last_third():
    samples = audio_of([(0.9, 20), (0.4, 1), (0.9, 109), (0.6, 1), (0.9, 100)])
    first, second = windows_of(samples, 16_000)
    assert first.samples.shape[0] == second.start_sample == 130 * FRAME_SAMPLES
    assert second.samples.shape[0] == 101 * FRAME_SAMPLES


def test_last_moment_of_speech_that_a_cut_left_over_is_kept_however_short():
    runs = [(0.9, 154), (0.6, 1), (0.9, 2), (0.0, 100)]
    first, rest = windows_of(audio_of(runs), 16_000)
    assert first.samples.shape[0] == rest.start_sample == 154 * FRAME_SAMPLES
    assert rest.samples.shape[0] >= 3 * FRAME_SAMPLES


def test_without_detection_a_cut_falls_into_the_quietest_moment():
    samples = tone(8.0)
    samples[65_000:66_500] = 0
    first, _ = windows_of(samples, 16_000, detector=EverythingIsSpeech())
    assert 65_000 <= first.samples.shape[0] < 66_500


def test_memory_stays_within_about_two_windows_on_any_length():
    cutter = WindowCutter(LIMIT, LoudIsSpeech())
    block = audio_of([(0.9, 60), (0.0, 4)])
    most = 0
    for _ in range(300):
        list(cutter.add(block))
        most = max(most, cutter._buffer.shape[0])
    assert most <= 2 * LIMIT + MAX_GAP_SAMPLES


def test_real_reading_is_cut_into_windows_that_hold_all_of_its_speech():
    [reading] = [recording for recording in recordings() if recording.path == READING]
    windows = list(cut([samples_of(reading.path)], WindowCutter(30 * SAMPLE_RATE_HZ)))
    assert len(windows) == 2
    assert sum(window.seconds for window in windows) > 40
    assert len(reading.text.split()) / sum(window.seconds for window in windows) < 4  # words a second: none was squeezed out


def segment(start: float, end: float) -> Segment:
    return Segment(
        id=0,
        start_seconds=start,
        end_seconds=end,
        text=" a",
        tokens=(1,),
        avg_logprob=-0.1,
        no_speech_prob=0.0,
        compression_ratio=1.0,
    )


@given(st.lists(st.lists(st.floats(0, 30), max_size=8), min_size=1, max_size=5))
def test_stitched_segments_have_times_that_never_run_back_and_numbers_that_count(windows):
    quiet = np.zeros(30 * SAMPLE_RATE_HZ, np.float32)
    parts = [
        (Window(index, index * 30 * SAMPLE_RATE_HZ, quiet), [segment(*times) for times in pairwise(sorted(found))])
        for index, found in enumerate(windows)
    ]
    segments = stitch(parts)
    assert [s.id for s in segments] == list(range(len(segments)))
    assert len(segments) == sum(max(len(found) - 1, 0) for found in windows)
    for s in segments:
        assert s.start_seconds <= s.end_seconds <= 30 * len(windows)
    for before, after in pairwise(segments):
        assert before.start_seconds <= after.start_seconds
        assert before.end_seconds <= after.end_seconds


def test_stitched_segment_lies_where_its_window_lies():
    window = Window(0, 8 * SAMPLE_RATE_HZ, np.zeros(3 * SAMPLE_RATE_HZ, np.float32))
    [moved] = stitch([(window, [segment(0.5, 2.25)])])
    assert (moved.start_seconds, moved.end_seconds) == (8.5, 10.25)


def test_a_window_tells_how_much_speech_the_detector_heard_in_it():
    samples = audio_of([(0.0, 40), (0.9, 30), (0.4, 10), (0.9, 5), (0.0, 200), (0.6, 20), (0.0, 60)])
    frame = FRAME_SAMPLES / SAMPLE_RATE_HZ
    assert [window.speech_seconds for window in windows_of(samples, 16_000)] == pytest.approx([35 * frame, 20 * frame])


def test_a_detector_that_is_only_asked_how_much_speech_there_is_changes_no_cut():
    samples = audio_of([(0.0, 100), (0.9, 30), (0.2, 300), (0.7, 90), (0.0, 200)], rest=100)
    blocks = [samples[start : start + 16_000] for start in range(0, samples.shape[0], 16_000)]
    plain, asked = (
        list(cut(blocks, WindowCutter(LIMIT, EverythingIsSpeech()))),
        list(cut(blocks, WindowCutter(LIMIT, LoudIsSpeech(), False))),
    )
    assert [(w.start_sample, w.samples.shape) for w in asked] == [(w.start_sample, w.samples.shape) for w in plain]
    frames = sum(window.speech_seconds for window in asked) * SAMPLE_RATE_HZ / FRAME_SAMPLES
    assert round(frames) == 120
