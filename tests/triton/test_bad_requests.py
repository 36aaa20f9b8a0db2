"""Bad recordings, options and tensors, over gRPC to a served whisper-base: each gets its answer, and harms nobody."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.triton.bad_inputs import CASES, FOX, Case, fox, sine, table
from tests.triton.client import Answer, Whisper, audio

Record = Callable[[str, object], None]
BEGIN, END = "<!-- bad inputs over gRPC -->\n", "\n<!-- end -->"
AT_ONCE = 2  # more of the longest would be refused for all that waits
MEBIBYTE = 1 << 20

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def served(whisper: Whisper) -> dict[str, object]:
    """Send all cases; what the server held before and after, and the answers by case."""
    assert whisper.ask(audio(fox())).text == FOX
    before, size = whisper.wait_until_idle(), whisper.resident_bytes()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = dict(zip(CASES, pool.map(lambda case: whisper.ask(case.message()), CASES), strict=True))
    after = whisper.wait_until_idle()
    return {"before": before, "after": after, "answers": answers, "grown": whisper.resident_bytes() - size}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.group}: {case.name}")
def test_what_is_sent_gets_the_answer_that_the_documentation_gives(served: Mapping[str, object], case: Case) -> None:
    answer: Answer = served["answers"][case]
    assert (answer.code, answer.message) == (case.code, answer.message)
    if case.code == "OK":
        assert answer.text == case.says
        assert case.warning in " ".join(answer.result.warnings)
        assert bool(case.warning) == bool(answer.result.warnings)
    else:
        assert case.is_said_by(answer.message), answer.message


def test_the_server_is_as_well_as_before_after_all_of_them(
    whisper: Whisper, served: Mapping[str, object], record_property: Record
) -> None:
    answers: Mapping[Case, Answer] = served["answers"]
    heard = [answer.result.duration_seconds for answer in answers.values() if answer.transcript is not None]
    finished = served["after"]["finished_audio_seconds_total"] - served["before"]["finished_audio_seconds_total"]
    assert finished == pytest.approx(sum(heard), abs=1e-3 * len(heard))
    assert whisper.is_ready()
    assert whisper.ask(audio(fox())).text == FOX
    grown = round(served["grown"] / MEBIBYTE)
    assert grown < 512
    record_property("bad inputs", f"{len(CASES)} sent, {len(CASES) - len(heard)} refused; resident memory grew by {grown} MiB")


def test_words_invented_where_nobody_speaks_are_none(served: Mapping[str, object], record_property: Record) -> None:
    silent = [answer for case, answer in served["answers"].items() if case.group == "no speech"]
    minutes = sum(answer.result.duration_seconds for answer in silent) / 60
    words = sum(len(answer.text.split()) for answer in silent)
    assert len(silent) >= 6
    assert words == 0
    record_property("words invented without speech", f"{words} in {minutes:.1f} min")


def test_the_documentation_has_the_table_of_these_cases(root_dir: Path) -> None:
    documented = (root_dir / "docs" / "audio.md").read_text(encoding="utf-8")
    assert documented.partition(BEGIN)[2].partition(END)[0] == table(), (
        "run `python -m tests.triton.bad_inputs`, and put its table in"
    )


def test_speech_after_silence_and_noise_is_found_where_it_is(whisper: Whisper) -> None:
    quiet = np.zeros(12 * 16_000, np.float32)
    answer = whisper.ask(audio(np.concatenate([quiet, sine(5), fox(), quiet])))
    assert answer.text == FOX
    assert 16 < answer.result.segments[0].start_seconds < 18.5
