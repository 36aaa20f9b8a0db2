"""What a request books of its audio, from the header to the answer."""

import random
from concurrent.futures import ThreadPoolExecutor

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


def test_audio_is_queued_then_in_flight_then_finished():
    books, reported = ledger()
    account = books.open(0)
    account.announce(60 * SECOND)
    assert reported[-1] == Load(requests=1, queued=60 * SECOND)
    for _ in range(40):
        account.add(SECOND)
    assert reported[-1] == Load(requests=1, queued=60 * SECOND)
    # The silence before a window no longer waits either.
    first, second = window(2 * SECOND, 25 * SECOND), window(30 * SECOND, 8 * SECOND)
    account.send(first)
    assert reported[-1] == Load(requests=1, queued=33 * SECOND, in_flight=25 * SECOND)
    account.send(second)
    account.receive(first)
    assert reported[-1] == Load(requests=1, queued=22 * SECOND, in_flight=8 * SECOND)
    account.receive(second)
    account.end_of_audio()
    assert reported[-1] == Load(requests=1, queued=2 * SECOND)
    account.close(answered=True)
    assert reported[-1] == Load(finished=40 * SECOND)


def test_audio_that_nothing_announced_is_queued_as_it_is_read():
    books, reported = ledger()
    account = books.open(0)
    account.announce(0)
    account.add(SECOND)
    account.add(SECOND)
    assert reported[-1] == Load(requests=1, queued=2 * SECOND)


def test_a_request_that_fails_finishes_nothing_and_its_windows_are_in_flight_until_they_are_back():
    books, reported = ledger()
    account = books.open(50 * SECOND)
    account.add(30 * SECOND)
    sent = window(0, 20 * SECOND)
    account.send(sent)
    account.close(answered=False)
    assert reported[-1] == Load(in_flight=20 * SECOND)
    account.receive(sent)
    assert reported[-1] == Load()


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

    def serve(seed: int) -> int:
        chance = random.Random(seed)
        total = chance.randrange(1, 10 * SECOND)
        account = books.open(chance.choice([0, total]))
        account.announce(chance.choice([0, total, 2 * total]))
        for start in range(0, total, SECOND):
            count = min(SECOND, total - start)
            account.add(count)
            sent = window(start, count)
            account.send(sent)
            account.receive(sent)
        account.end_of_audio()
        answered = chance.random() < 0.7
        account.close(answered=answered)
        return total if answered else 0

    with ThreadPoolExecutor(16) as pool:
        finished = sum(pool.map(serve, range(200)))
    assert reported[-1] == Load(finished=finished)
    assert all(min(load.requests, load.queued, load.in_flight) >= 0 for load in reported)
