import io
import re
from datetime import timedelta

import pytest
import srt
import webvtt
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from transcriber_engine.guards import compression_ratio
from transcriber_engine.result import (
    Segment,
    Speculation,
    Transcript,
    WindowResult,
    Word,
    to_srt,
    to_text,
    to_vtt,
)


def segment(number: int, start: float, end: float, text: str) -> Segment:
    return Segment(
        id=number,
        start_seconds=start,
        end_seconds=end,
        text=text,
        tokens=(1, 2),
        avg_logprob=-0.3,
        no_speech_prob=0.1,
        compression_ratio=1.2,
    )


def transcript(*segments: Segment) -> Transcript:
    return Transcript(
        text=" ".join(s.text.strip() for s in segments),
        language="en",
        duration_seconds=12.5,
        segments=segments,
        speculation=Speculation(cycles=10, output_tokens=45, draft_tokens=50, accepted_tokens=35),
        warnings=("AUDIO: decoded 12.5 s; cut short",),
    )


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1).filter(
    lambda text: text.strip()
)
SEGMENTS = st.lists(st.tuples(st.integers(1, 90_000), TEXTS), min_size=1, max_size=8)


def build(lengths: list[tuple[int, str]]) -> Transcript:
    now, segments = 0, []
    for number, (length, text) in enumerate(lengths):
        segments.append(segment(number, now / 1000, (now + length) / 1000, text))
        now += length
    return transcript(*segments)


@given(SEGMENTS)
def test_transcript_when_written_as_json_and_read_back_is_the_same(lengths):
    whole = build(lengths)
    assert Transcript.model_validate_json(whole.model_dump_json()) == whole


@given(SEGMENTS)
def test_srt_of_any_text_is_read_by_srt_with_the_same_times(lengths):
    whole = build(lengths)
    cues = list(srt.parse(to_srt(whole)))
    assert [cue.index for cue in cues] == list(range(1, len(cues) + 1))
    assert [(cue.start, cue.end) for cue in cues] == [
        (timedelta(milliseconds=round(s.start_seconds * 1000)), timedelta(milliseconds=round(s.end_seconds * 1000)))
        for s in whole.segments
    ]


@given(SEGMENTS)
def test_vtt_of_any_text_is_read_by_webvtt_with_every_cue(lengths):
    whole = build(lengths)
    cues = list(webvtt.from_buffer(io.StringIO(to_vtt(whole))))
    assert [cue.start_in_seconds for cue in cues] == pytest.approx([int(s.start_seconds) for s in whole.segments], abs=1)
    assert len(cues) == len(whole.segments)


@pytest.mark.parametrize("write", [to_srt, to_vtt])
@pytest.mark.parametrize("text", ["one --> two", "one\n\ntwo", "one\r\n\r\n00:00:01.000 --> 00:00:02.000\ntwo"])
def test_text_that_would_end_a_cue_stays_inside_its_cue(write, text):
    written = write(transcript(segment(0, 0, 1, text), segment(1, 1, 2, "end")))
    assert written.count(" --> ") == 2
    assert len(re.split(r"\n\n+", written.strip())) == (2 if write is to_srt else 3)


def test_subtitles_hours_into_a_recording_are_read_with_their_times_and_texts():
    whole = transcript(segment(0, 0, 0.5, " One -->\n\ntwo."), segment(1, 3600.75, 3601.25, " Three."))
    cues = list(srt.parse(to_srt(whole)))
    assert [(cue.start.total_seconds(), cue.content) for cue in cues] == [(0, "One → two."), (3600.75, "Three.")]
    captions = webvtt.from_string(to_vtt(whole)).captions
    assert [(caption.start, caption.text) for caption in captions] == [("00:00:00.000", "One → two."), ("01:00:00.750", "Three.")]


def test_vtt_when_text_holds_markup_shows_it_as_it_was_said():
    [cue] = webvtt.from_buffer(io.StringIO(to_vtt(transcript(segment(0, 0, 1, "a < b & c > d <i>x</i>")))))
    assert cue.raw_text == "a &lt; b &amp; c &gt; d &lt;i&gt;x&lt;/i&gt;"


def with_words(start: float, end: float, *words: tuple[str, float, float]) -> Segment:
    timed = tuple(Word(word=word, start_seconds=at, end_seconds=until, probability=0.5) for word, at, until in words)
    return segment(0, start, end, "".join(word.word for word in timed)).model_copy(update={"words": timed})


def test_words_move_with_their_segment():
    moved = with_words(1, 2, (" One", 1, 1.25), (" two.", 1.25, 2)).moved(7, 3600.0004)
    assert (moved.id, moved.start_seconds, moved.end_seconds) == (7, 3601.0, 3602.0)
    assert [(word.start_seconds, word.end_seconds) for word in moved.words] == [(3601.0, 3601.25), (3601.25, 3602.0)]


def test_vtt_has_the_time_of_each_word_that_begins_inside_its_cue():
    said = with_words(1, 3, (" early", 0.8, 1.1), (" <b>", 1.5, 1.6), (" &", 1.5, 1.5), ("-->\n\n", 2, 2.1), (" late", 3, 3.2))
    written = to_vtt(transcript(said))
    assert "\nearly<00:00:01.500> &lt;b&gt; &amp;<00:00:02.000>→ late\n" in written
    [cue] = webvtt.from_buffer(io.StringIO(written))
    assert cue.text == "early &lt;b&gt; &amp;→ late"
    assert to_srt(transcript(said)).splitlines()[2] == "early <b> &→ late"


def test_cue_without_length_when_written_lasts_a_millisecond():
    assert "00:00:01.000 --> 00:00:01.001" in to_vtt(transcript(segment(0, 1, 1, "yes")))
    assert "00:00:01,000 --> 00:00:01,001" in to_srt(transcript(segment(0, 1, 1, "yes")))


@pytest.mark.parametrize(("seconds", "clock"), [(0.0004, "00:00:00,000"), (59.9996, "00:01:00,000"), (360_000, "100:00:00,000")])
def test_clock_at_its_edges_is_rounded_and_carried(seconds, clock):
    assert f"{clock} --> " in to_srt(transcript(segment(0, seconds, seconds + 1, "x")))


def test_transcript_without_speech_has_empty_text_and_valid_subtitles():
    nothing = Transcript(text="", language=None, duration_seconds=3.0, segments=(), speculation=Speculation())
    assert to_text(nothing) == ""
    assert list(srt.parse(to_srt(nothing))) == []
    assert list(webvtt.from_buffer(io.StringIO(to_vtt(nothing)))) == []


def test_speculation_gives_its_shares_and_adds_up():
    one = Speculation(cycles=10, output_tokens=45, draft_tokens=50, accepted_tokens=35)
    assert (one.acceptance, one.tokens_per_cycle) == (0.7, 4.5)
    assert one + Speculation(cycles=2) == Speculation(cycles=12, output_tokens=45, draft_tokens=50, accepted_tokens=35)
    assert (Speculation().acceptance, Speculation().tokens_per_cycle) == (0.0, 0.0)


def test_compression_ratio_tells_a_loop_from_a_sentence():
    assert compression_ratio("") == 0.0
    assert compression_ratio("The quick brown fox jumps over the lazy dog.") < 1.2
    assert compression_ratio("thank you " * 40) > 2.4


def test_window_result_of_another_shape_is_refused_by_name():
    with pytest.raises(ValidationError, match="speculation"):
        WindowResult.model_validate_json('{"language": "en", "segments": []}')
