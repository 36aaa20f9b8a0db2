"""A served whisper-base under load: right transcripts, bounded memory, figures that agree with what was sent, cancellation."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import grpc
import jiwer
import numpy as np
import pytest

from tests.thorough import THOROUGH
from tests.triton import recordings
from tests.triton.client import Answer, Tensor, Whisper, answer, audio, floats, options, request
from tests.triton.conftest import MAX_QUEUED_AUDIO_SECONDS, SLOTS
from transcriber_engine.audio import AudioLimits, decode
from transcriber_engine.mel import log_mel
from transcriber_engine.result import Speculation

Record = Callable[[str, object], None]
WINDOWS_OF_A_REQUEST = SLOTS // 2  # on their way at once
SAMPLE_SECONDS = 0.25
MEBIBYTE = 1 << 20

pytestmark = pytest.mark.timeout(1800)


def of_one(result: Answer) -> tuple[object, ...]:
    """All of an answer that must not depend on the draft or on what else is served."""
    segments = [(segment.start_seconds, segment.end_seconds, segment.tokens) for segment in result.result.segments]
    return result.text, result.result.language, result.result.duration_seconds, segments


@pytest.fixture(scope="module")
def alone(whisper: Whisper) -> Callable[[str], Answer]:
    """What a file gets from the target alone, with nothing else on the server."""

    @cache
    def ask(name: str) -> Answer:
        whisper.wait_until_idle()
        return whisper.ask(audio(recordings.files()[name][0], max_draft_tokens=0))

    return ask


def test_files_of_many_lengths_at_once_get_what_each_gets_alone_without_a_draft(
    whisper: Whisper, alone: Callable[[str], Answer], record_property: Record
) -> None:
    files = recordings.files()
    if not THOROUGH:
        files = {name: files[name] for name in [*list(recordings.languages())[::3], "reading", "talk of 10 s", "talk of 60 s"]}
    lengths = [seconds for _, seconds in files.values()]
    sent_seconds = sum(lengths)
    assert min(lengths) < 2
    assert (len(files), max(lengths)) == ((32, 300) if THOROUGH else (12, 60))
    before, idle_bytes = whisper.wait_until_idle(), whisper.resident_bytes()

    started = time.monotonic()
    calls = {name: whisper.send(audio(content)) for name, (content, _) in files.items()}
    seen, peak_bytes = [], 0
    while not all(call.done() for call in calls.values()):
        seen.append(whisper.metrics())
        peak_bytes = max(peak_bytes, whisper.resident_bytes())
        time.sleep(SAMPLE_SECONDS)
    took_seconds = time.monotonic() - started
    answers = {name: answer(call) for name, call in calls.items()}
    after = whisper.wait_until_idle()

    windows = sum(len(recordings.windows_of(heard(content))) for content, _ in files.values())
    check_totals(before, after, sent_seconds, windows, list(answers.values()))
    for figures in seen:
        assert figures["queued_audio_seconds"] + figures["in_flight_audio_seconds"] <= sent_seconds
        assert 0 <= figures["slots_active"] <= figures["slots"] == SLOTS
        assert figures["pending whisper_decoder"] <= windows
    grown = {
        name: round((size - idle_bytes) / MEBIBYTE) for name, size in (("peak", peak_bytes), ("end", whisper.resident_bytes()))
    }
    assert grown["peak"] < 2048, grown
    assert grown["end"] < 512, grown

    differing = [name for name in files if of_one(answers[name]) != of_one(alone(name))]
    assert differing == []
    error_rate = word_error_rate(answers["reading"].text)
    assert error_rate < 0.1

    total = sum((result.result.speculation for result in answers.values()), Speculation())
    record_property(
        f"{len(files)} files at once", f"{sent_seconds:.0f} s of audio in {windows} windows, {took_seconds:.1f} s, all as alone"
    )
    record_property(
        "resident memory, MiB", {"idle": idle_bytes // MEBIBYTE, **{f"{name} above it": size for name, size in grown.items()}}
    )
    names = ("requests_in_progress", "queued_audio_seconds", "in_flight_audio_seconds", "pending whisper_encoder")
    record_property(
        "most at a time", {name: round(peak(name, seen), 1) for name in (*names, "pending whisper_decoder", "slots_active")}
    )
    record_property("speculation", f"acceptance {total.acceptance:.1%}, {total.tokens_per_cycle:.2f} tokens per cycle")
    record_property("word error rate of the reading", f"{error_rate:.1%}")


def check_totals(
    before: Mapping[str, float], after: Mapping[str, float], seconds: float, windows: int, answers: list[Answer]
) -> None:
    """Check that the counters grew by what was sent and by what the answers say."""
    grown = {name: value - before[name] for name, value in after.items()}
    total = sum((result.result.speculation for result in answers), Speculation())
    assert grown["finished_audio_seconds_total"] == pytest.approx(seconds, abs=1e-3)
    assert grown["admitted_requests_total"] == len(answers)
    assert grown["decoded_audio_seconds_total"] == pytest.approx(seconds, abs=1e-3)
    assert grown["windows_total"] == windows
    assert grown["output_tokens_total"] == total.output_tokens
    assert grown["draft_tokens_total"] == total.draft_tokens
    assert grown["accepted_tokens_total"] == total.accepted_tokens
    assert grown["cancelled_windows_total"] == 0
    assert total.cycles / SLOTS <= grown["cycles_total"] < total.cycles  # windows share cycles


def heard(content: bytes) -> np.ndarray:
    return np.concatenate(list(decode(content, AudioLimits(1 << 30, 3600)).blocks()))


def peak(name: str, seen: list[dict[str, float]]) -> float:
    return max(figures[name] for figures in seen)


def word_error_rate(text: str) -> float:
    said, read = (" ".join(re.findall(r"[a-z]+", words.lower())) for words in (text, recordings.reading_text()))
    return float(jiwer.wer(read, said))


def test_gauges_say_what_waits_and_what_is_decoded_and_audio_beyond_the_limit_is_refused(
    whisper: Whisper, record_property: Record
) -> None:
    before = whisper.wait_until_idle()
    talk, (file, _) = recordings.talk(300), recordings.files()["talk of 300 s"]
    first = recordings.windows_of(talk)[:WINDOWS_OF_A_REQUEST]
    in_flight = sum(window.seconds for window in first)
    waiting = 300 - first[-1].start_seconds - first[-1].seconds
    with whisper.busy_encoder():
        calls = []
        for number, content in enumerate((talk, talk, file), start=1):
            calls.append(whisper.send(audio(content)))
            expected = {"requests_in_progress": number, "queued_audio_seconds": number * waiting}
            expected["in_flight_audio_seconds"] = number * in_flight
            settled = whisper.wait_until(lambda figures, expected=expected: agrees(figures, expected))
        assert 3 * waiting + 300 > MAX_QUEUED_AUDIO_SECONDS
        for content in (talk, file):
            refusal = whisper.ask(audio(content))
            assert refusal.code == "UNAVAILABLE"
            assert f"AUDIO: {3 * waiting:.0f} s of audio wait already, at most 900 s may" in refusal.message
            assert refusal.message.endswith("(spec.runtime.maxQueuedAudioSeconds); try again later [RESOURCE_EXHAUSTED]")
        for call in calls:
            call.cancel()
        # The windows that are with `whisper` come back when the encoder gets to them.
        gone = {"requests_in_progress": 0, "queued_audio_seconds": 0, "in_flight_audio_seconds": 3 * in_flight}
        whisper.wait_until(lambda figures: agrees(figures, gone))
    after = whisper.wait_until_idle()
    assert after["finished_audio_seconds_total"] == before["finished_audio_seconds_total"]
    assert after["windows_total"] == before["windows_total"]
    names = ("queued_audio_seconds", "in_flight_audio_seconds")
    record_property("three talks of 300 s before a busy encoder", {name: round(settled[name], 3) for name in names})


def agrees(figures: Mapping[str, float], expected: Mapping[str, float]) -> bool:
    return all(figures[name] == pytest.approx(value, abs=1e-3) for name, value in expected.items())


def encoded_reading(whisper: Whisper) -> Tensor:
    """The encoding of the reading's first window, for the decoder alone."""
    mel = log_mel(recordings.windows_of(recordings.samples_of(recordings.READING))[0].samples, 80)
    encoded = whisper.send(request(floats("MEL", mel), output="HIDDEN", model="whisper_encoder")).result()
    return "HIDDEN", "FP32", [1500, 512], encoded.raw_output_contents[0]


@contextmanager
def busy_decoder(whisper: Whisper, windows: int) -> Iterator[list[grpc.Future]]:
    """Give the decoder so many windows of its own, behind which those of others gather, and cancel them at the end.

    They are encoded before, so that they come at once, and not drafted, so that each takes as many cycles as it has tokens.
    """
    undrafted = request(encoded_reading(whisper), options(max_draft_tokens=0), output="TOKENS", model="whisper_decoder")
    calls = [whisper.send(undrafted) for _ in range(windows)]
    whisper.wait_until(lambda figures: figures["slots_active"] == SLOTS)
    yield calls
    for call in calls:
        call.cancel()


def at_decoder(figures: Mapping[str, float]) -> float:
    """Windows in the decoder and before it, but for up to two that are on their way from one to the other."""
    return figures["slots_active"] + figures["windows_waiting"] + figures["pending whisper_decoder"]


def test_pending_requests_of_the_decoder_are_the_windows_that_wait_for_a_slot(whisper: Whisper, record_property: Record) -> None:
    before, hidden = whisper.wait_until_idle(), encoded_reading(whisper)
    calls = [whisper.send(request(hidden, options(), output="TOKENS", model="whisper_decoder")) for _ in range(16)]
    # As many as there are slots wait in the decoder. Of the rest Triton counts all but one that is being admitted and one that
    # stands at the door.
    waiting = 16 - 2 * SLOTS - 2
    full = whisper.wait_until(
        lambda figures: figures["slots_active"] == SLOTS and figures["pending whisper_decoder"] <= waiting + 1
    )
    assert full["windows_waiting"] in (SLOTS - 1, SLOTS)
    assert full["pending whisper_decoder"] >= waiting
    for call in calls:
        call.cancel()
    after = whisper.wait_until_idle()
    assert {answer(call).code for call in calls} == {"CANCELLED"}
    assert after["windows_total"] == before["windows_total"]
    names = ("slots_active", "windows_waiting", "pending whisper_decoder")
    record_property("16 windows sent to the decoder", {name: full[name] for name in names})


def test_half_of_16_long_requests_cancelled_leave_the_rest_to_finish_with_the_right_text(
    whisper: Whisper, alone: Callable[[str], Answer], record_property: Record
) -> None:
    content, seconds = recordings.files()["reading"]
    expected = of_one(alone("reading"))
    before = whisper.wait_until_idle()
    with busy_decoder(whisper, 4 * SLOTS):
        calls = [whisper.send(audio(content)) for _ in range(16)]
        # Until enough are encoded to fill all slots twice over, whichever of the two models is faster.
        whisper.wait_until(lambda figures: at_decoder(figures) + figures["windows_total"] - before["windows_total"] >= 6 * SLOTS)
    whisper.wait_until(
        lambda figures: (
            figures["decoded_audio_seconds_total"] > before["decoded_audio_seconds_total"] and figures["slots_active"] == SLOTS
        )
    )
    cancelled = [call for call in calls if not call.done()][::2]
    kept = [call for call in calls if call not in cancelled]
    started = time.monotonic()
    for call in cancelled:
        call.cancel()
    whisper.wait_until(lambda figures: figures["requests_in_progress"] <= len(kept))
    answered_seconds = time.monotonic() - started
    answers = [answer(call) for call in kept]
    after = whisper.wait_until_idle()
    assert [of_one(result) for result in answers] == [expected] * len(kept)
    assert {answer(call).code for call in cancelled} == {"CANCELLED"}
    finished = after["finished_audio_seconds_total"] - before["finished_audio_seconds_total"]
    assert finished == pytest.approx(len(kept) * seconds, abs=1e-3)
    decoded = after["decoded_audio_seconds_total"] - before["decoded_audio_seconds_total"]
    assert decoded < len(calls) * seconds
    record_property(
        f"{len(cancelled)} of 16 cancelled",
        f"given up after {answered_seconds:.2f} s; {decoded:.0f} of {len(calls) * seconds:.0f} s decoded",
    )


def test_slots_of_cancelled_windows_are_free_long_before_the_windows_would_have_been_done(
    whisper: Whisper, record_property: Record
) -> None:
    before = whisper.wait_until_idle()
    with busy_decoder(whisper, SLOTS) as calls:
        started = time.monotonic()
    whisper.wait_until(lambda figures: figures["slots_active"] == 0)
    freed_seconds = time.monotonic() - started
    after = whisper.wait_until_idle()
    assert {answer(call).code for call in calls} == {"CANCELLED"}
    assert after["cancelled_windows_total"] - before["cancelled_windows_total"] == SLOTS
    assert after["windows_total"] == before["windows_total"]
    cycles = after["cycles_total"] - before["cycles_total"]
    record_property("all slots cancelled", f"free after {freed_seconds:.2f} s, {cycles:.0f} cycles run")


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("the wrong language", {"language": "ja"}),
        ("the wrong language, without times", {"language": "pl", "timestamps": "none"}),
        ("another task", {"task": "translate", "language": "es"}),
        (
            "a prompt in another language, hotwords and times of words",
            {
                "language": "en",
                "prompt": "Za górami, za lasami. Il était une fois.",
                "hotwords": "Łódź, Orléans",
                "timestamps": "word",
            },
        ),
    ],
)
def test_a_draft_that_is_wrong_changes_nothing_of_the_transcript(
    whisper: Whisper, record_property: Record, name: str, chosen: dict[str, str]
) -> None:
    content, _ = recordings.files()["talk of 20 s"]
    drafted = whisper.ask(audio(content, **chosen, max_draft_tokens=16))
    target = whisper.ask(audio(content, **chosen, max_draft_tokens=0))
    assert of_one(drafted) == of_one(target)
    assert target.result.speculation.draft_tokens == 0
    for segment in drafted.result.segments:
        assert "".join(word.word for word in segment.words) == (segment.text if chosen.get("timestamps") == "word" else "")
    speculation = drafted.result.speculation
    assert speculation.draft_tokens > 0
    record_property(
        f"draft with {name}", f"{speculation.accepted_tokens} of {speculation.draft_tokens} accepted, the same transcript"
    )


def test_the_decoder_computes_in_its_engine_thread_alone(whisper: Whisper) -> None:
    """A thread that ever computed has a team of its own; with more threads in teams than cores, OpenMP's no longer wait awake."""
    whisper.ask(audio(recordings.files()["reading"][0]))
    encoder, decoder = (
        len(list(Path(f"/proc/{whisper.pid(name)}/task").iterdir())) for name in ("whisper_encoder", "whisper_decoder")
    )
    assert decoder == encoder + 1  # the encoder computes in its main thread
