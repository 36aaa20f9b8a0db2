"""How a served whisper-base ends: asked to, or with a part of it killed."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.triton import recordings
from tests.triton.client import Whisper, answer, audio
from tests.triton.conftest import SLOTS

Record = Callable[[str, object], None]
END_SECONDS = 600

pytestmark = pytest.mark.timeout(900)


def test_a_file_at_hand_is_finished_before_the_server_stops(own_whisper: Whisper, record_property: Record) -> None:
    content, _ = recordings.files()["talk of 60 s"]
    windows = len(recordings.windows_of(recordings.talk(60)))
    assert windows > SLOTS // 2  # so that some are sent after the signal
    call = own_whisper.send(audio(content))
    own_whisper.wait_until(lambda figures: figures["slots_active"] > 0)
    own_whisper.serving.process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    assert answer(call).text.startswith("It was the best of times")
    answered_seconds = time.monotonic() - started
    status, said = own_whisper.serving.process.wait(END_SECONDS), own_whisper.serving.finish()[1]
    assert (status, said.splitlines()[-1]) == (0, "stopped")
    record_property(
        "SIGTERM during a file", f"its text after {answered_seconds:.1f} s, gone after {time.monotonic() - started:.1f} s"
    )


def stop_without_patience(whisper: Whisper) -> None:
    """Ask it to end; the fixture asks again, which kills. Triton would wait half a minute for what the dead process held."""
    whisper.serving.process.send_signal(signal.SIGINT)
    assert whisper.serving.process.stderr is not None
    while "Ctrl-C again to kill" not in whisper.serving.process.stderr.readline():
        assert whisper.serving.process.poll() is None


def test_requests_fail_and_do_not_hang_when_the_decoder_is_killed(own_whisper: Whisper, record_property: Record) -> None:
    content, _ = recordings.files()["reading"]
    calls = [own_whisper.send(audio(content)) for _ in range(SLOTS)]
    own_whisper.wait_until(lambda figures: figures["slots_active"] > 0)
    started = time.monotonic()
    os.kill(own_whisper.pid("whisper_decoder"), signal.SIGKILL)
    answers = [answer(call) for call in calls]
    failed_seconds = time.monotonic() - started
    later = own_whisper.ask(audio(recordings.samples_of(recordings.READING)))
    for failed in [*answers, later]:
        assert failed.code == "INTERNAL"
        assert "the process of model whisper_decoder has died; restart the server" in failed.message
    assert own_whisper.is_ready()  # which is why readiness has to come from a request that is served
    figures = own_whisper.wait_until(lambda figures: figures["requests_in_progress"] == 0)
    assert figures["queued_audio_seconds"] == 0
    assert figures["finished_audio_seconds_total"] == 0
    stop_without_patience(own_whisper)
    record_property("kill -9 of the decoder", f"{len(calls)} requests failed within {failed_seconds:.2f} s")
