"""Windows on their way to `whisper`: who is let through, and what they tell of themselves."""

import json
import threading
import time

import pytest

from transcriber_engine.admission import Claim
from transcriber_engine.errors import DeadlinePassedError, RequestError
from transcriber_triton.facts import WindowFacts
from transcriber_triton.gate import WindowGate


class Caller(threading.Thread):
    """Asks to be let through, and says when it waits and when it is through."""

    def __init__(self, gate: WindowGate, claim: Claim) -> None:
        super().__init__(daemon=True)
        self.waits, self.is_through = threading.Event(), threading.Event()
        self._gate, self._claim = gate, claim
        self.start()

    def run(self) -> None:
        self._gate.enter(self._claim, self.waits.set)
        self.is_through.set()


def test_a_request_with_nothing_on_its_way_goes_before_the_next_window_of_another():
    gate = WindowGate(2)
    file, call = Claim("file", 0.0), Claim("call", 60.0)
    gate.enter(file)
    gate.enter(file)
    next_of_file, of_call = Caller(gate, file), Caller(gate, call)
    assert next_of_file.waits.wait(30)
    assert of_call.waits.wait(30)
    gate.leave(file)
    assert of_call.is_through.wait(30)
    assert not next_of_file.is_through.is_set()
    gate.leave(call)
    assert next_of_file.is_through.wait(30)


def test_what_is_due_first_goes_first():
    gate = WindowGate(1)
    gate.enter(Claim("now", 0.0))
    later, sooner = Caller(gate, Claim("later", 9.0)), Caller(gate, Claim("sooner", 5.0))
    assert later.waits.wait(30)
    assert sooner.waits.wait(30)
    gate.leave(Claim("now", 0.0))
    assert sooner.is_through.wait(30)
    assert not later.is_through.is_set()


class GoneError(Exception):
    pass


def test_one_who_gives_up_waiting_holds_nobody_back():
    def give_up() -> None:
        raise GoneError

    gate, first, gone, next_one = WindowGate(1), Claim("a", 0.0), Claim("b", 1.0), Claim("c", 2.0)
    gate.enter(first)
    with pytest.raises(GoneError):
        gate.enter(gone, give_up)
    gate.leave(first)
    gate.enter(next_one)


def test_facts_of_a_window_arrive_as_they_were_told():
    facts = WindowFacts(request="a", audio_seconds=12.5, speech_seconds=3.25, deadline_seconds=1234.5)
    assert WindowFacts.told_by(json.dumps(facts.parameters)) == facts
    assert WindowFacts.told_by("") == WindowFacts() == WindowFacts.told_by('{"another": 1}')


@pytest.mark.parametrize("told", ['{"audio_seconds": 31}', '{"colour": "blue"}', "[]", 5, '{"speech_seconds": -1}'])
def test_facts_that_are_none_are_refused_by_name(told):
    with pytest.raises(RequestError, match="transcriber_window: "):
        WindowFacts.told_by(json.dumps({"transcriber_window": told}))


def test_a_deadline_that_passed_is_said():
    WindowFacts().check_deadline()
    WindowFacts(deadline_seconds=time.monotonic() + 60).check_deadline()
    with pytest.raises(DeadlinePassedError):
        WindowFacts(deadline_seconds=time.monotonic()).check_deadline()
