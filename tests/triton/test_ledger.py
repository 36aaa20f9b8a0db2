"""What a request books of its audio, from the header to the answer."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from transcriber_engine.errors import Refusal, RequestError
from transcriber_engine.longform import Window
from transcriber_triton.ledger import AudioLedger, Load

SECOND = 16_000


def ledger(max_requests: int = 8, max_queued_seconds: int = 100) -> tuple[AudioLedger, list[Load]]:
    reported = [Load()]
    return AudioLedger(max_requests, max_queued_seconds, reported.append), reported


def window(start: int, samples: int) -> Window:
    return Window(0, start, np.zeros(samples, np.float32))


def held(load: Load) -> tuple[float, float, float]:
    """What is held of work: requests, and the seconds that wait and that are being decoded."""
    return load.requests, load.queued / SECOND, load.in_flight / SECOND


def counted(load: Load) -> tuple[float, float, float, float]:
    """What came in and went out: requests and seconds admitted, seconds decoded and finished."""
    return load.admitted_requests, load.admitted / SECOND, load.decoded / SECOND, load.finished / SECOND


def test_audio_is_queued_then_in_flight_then_finished():
    books, reported = ledger()
    account = books.open(0)
    account.announce(60 * SECOND)
    assert held(reported[-1]) == (1, 60, 0)
    for _ in range(40):
        account.add(SECOND)
    assert held(reported[-1]) == (1, 60, 0)
    # The silence before a window no longer waits either.
    first, second = window(2 * SECOND, 25 * SECOND), window(30 * SECOND, 8 * SECOND)
    account.send(first)
    assert held(reported[-1]) == (1, 33, 25)
    account.send(second)
    account.receive(first, is_decoded=True)
    assert held(reported[-1]) == (1, 22, 8)
    account.receive(second, is_decoded=True)
    account.end_of_audio()
    assert held(reported[-1]) == (1, 2, 0)
    account.close(answered=True)
    assert held(reported[-1]) == (0, 0, 0)
    assert reported[-1].finished == 40 * SECOND


def test_audio_that_nothing_announced_is_queued_and_admitted_as_it_is_read():
    books, reported = ledger()
    account = books.open(0)
    account.announce(0)
    assert counted(reported[-1]) == (0, 0, 0, 0)
    account.add(SECOND)
    account.add(SECOND)
    assert held(reported[-1]) == (1, 2, 0)
    assert counted(reported[-1]) == (1, 2, 0, 0)


@pytest.mark.parametrize(("announced", "read", "admitted"), [(60, 60, 60), (60, 40, 60), (60, 70, 70), (0, 40, 40)])
def test_a_request_is_admitted_once_with_what_is_announced_or_read_whichever_is_more(announced, read, admitted):
    books, reported = ledger()
    account = books.open(0)
    account.announce(announced * SECOND)
    assert counted(reported[-1])[:2] == (min(announced, 1), announced)
    for _ in range(read):
        account.add(SECOND)
    account.end_of_audio()
    account.close(answered=True)
    assert counted(reported[-1]) == (1, admitted, read, read)


def test_recorded_samples_are_admitted_at_once_and_not_again_as_they_are_read():
    books, reported = ledger()
    account = books.open(20 * SECOND)
    assert counted(reported[-1])[:2] == (1, 20)
    account.add(20 * SECOND)
    assert counted(reported[-1])[:2] == (1, 20)


def test_audio_is_decoded_when_its_window_comes_back_with_the_silence_before_it_and_the_rest_with_the_answer():
    books, reported = ledger()
    account = books.open(60 * SECOND)
    account.add(60 * SECOND)
    first, second = window(5 * SECOND, 20 * SECOND), window(30 * SECOND, 10 * SECOND)
    account.send(first)
    account.send(second)
    assert reported[-1].decoded == 0
    account.receive(second, is_decoded=True)  # the second may be back before the first
    assert reported[-1].decoded == 15 * SECOND
    account.receive(first, is_decoded=True)
    assert reported[-1].decoded == 40 * SECOND
    account.close(answered=True)
    assert reported[-1].decoded == reported[-1].finished == 60 * SECOND


def test_a_request_that_fails_finishes_nothing_and_its_windows_are_in_flight_until_they_are_back():
    books, reported = ledger()
    account = books.open(50 * SECOND)
    account.add(30 * SECOND)
    first, second = window(0, 20 * SECOND), window(20 * SECOND, 5 * SECOND)
    account.send(first)
    account.send(second)
    account.close(answered=False)
    assert held(reported[-1]) == (0, 0, 25)
    account.receive(first, is_decoded=False)
    account.receive(second, is_decoded=True)  # the work was done, though nobody wants it
    assert held(reported[-1]) == (0, 0, 0)
    assert counted(reported[-1]) == (1, 50, 5, 0)


def test_a_canary_takes_room_and_shows_as_no_work():
    books, reported = ledger(max_requests=2, max_queued_seconds=10)
    canary = books.open(0, is_canary=True)
    canary.announce(6 * SECOND)
    assert reported[-1] == Load(canaries=1)
    with pytest.raises(RequestError, match="6 s of audio wait already"):
        books.open(5 * SECOND)
    books.open(SECOND)
    with pytest.raises(RequestError, match="2 requests are being served already"):
        books.open(0)
    work = reported[-1]
    canary.add(6 * SECOND)
    sent = window(0, 5 * SECOND)
    canary.send(sent)
    canary.receive(sent, is_decoded=True)
    canary.end_of_audio()
    assert reported[-1] == work
    canary.close(answered=True)
    assert reported[-1] == replace(work, canaries=0)
    books.open(9 * SECOND)


def test_the_limit_of_queued_audio_is_accepted_and_one_sample_more_is_refused_and_not_booked():
    books, reported = ledger(max_queued_seconds=100)
    books.open(60 * SECOND)
    late = books.open(0)
    before = reported[-1]
    for refused in (lambda: books.open(40 * SECOND + 1), lambda: late.announce(40 * SECOND + 1)):
        with pytest.raises(RequestError, match="AUDIO: 60 s of audio wait already, at most 100 s may") as caught:
            refused()
        assert caught.value.refusal is Refusal.RESOURCE_EXHAUSTED
        assert reported[-1] == before
        assert counted(reported[-1])[:2] == (1, 60)
    late.announce(40 * SECOND)
    with pytest.raises(RequestError, match="100 s of audio wait already"):
        books.open(0)


def test_audio_that_is_being_decoded_takes_no_room_in_the_queue():
    books, _ = ledger(max_queued_seconds=100)
    first = books.open(100 * SECOND)
    first.send(window(0, 30 * SECOND))
    books.open(30 * SECOND)


def test_one_request_more_than_may_be_served_is_refused_until_another_ends():
    books, _ = ledger(max_requests=2)
    first = books.open(0)
    books.open(0)
    with pytest.raises(RequestError, match="2 requests are being served already") as caught:
        books.open(0)
    assert caught.value.refusal is Refusal.RESOURCE_EXHAUSTED
    first.close(answered=False)
    books.open(0)


def test_what_many_threads_book_adds_up():
    books, reported = ledger(max_requests=16, max_queued_seconds=10**6)

    def serve(seed: int) -> tuple[int, int, int]:
        chance = random.Random(seed)
        total = chance.randrange(1, 10 * SECOND)
        recorded, announced = chance.choice([0, total]), chance.choice([0, total, 2 * total])
        account = books.open(recorded)
        account.announce(announced)
        for start in range(0, total, SECOND):
            count = min(SECOND, total - start)
            account.add(count)
            sent = window(start, count)
            account.send(sent)
            account.receive(sent, is_decoded=True)
        account.end_of_audio()
        answered = chance.random() < 0.7
        account.close(answered=answered)
        return max(recorded, announced, total), total, total if answered else 0

    with ThreadPoolExecutor(16) as pool:
        admitted, decoded, finished = (sum(figures) for figures in zip(*pool.map(serve, range(200)), strict=True))
    assert reported[-1] == Load(admitted_requests=200, admitted=admitted, decoded=decoded, finished=finished)
    assert all(min(load.requests, load.queued, load.in_flight) >= 0 for load in reported)
