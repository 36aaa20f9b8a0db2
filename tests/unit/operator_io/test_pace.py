"""The token bucket: a burst, a rate, and a pause that the server asks for."""

import asyncio

from tests.unit.operator_io.parts import FakeClock
from transcriber_operator.cluster.pace import Pace


async def times_of(pace: Pace, clock: FakeClock, calls: int) -> list[float]:
    found = []
    for _ in range(calls):
        await pace.wait()
        found.append(round(clock.seconds, 6))
    return found


async def test_twice_the_rate_goes_at_once_and_the_rest_at_the_rate() -> None:
    clock = FakeClock()
    assert await times_of(Pace(10, clock), clock, 23) == [0.0] * 20 + [0.1, 0.2, 0.3]


async def test_a_bucket_that_stood_idle_holds_no_more_than_a_burst() -> None:
    clock = FakeClock()
    pace = Pace(10, clock)
    clock.seconds = 1000
    assert (await times_of(pace, clock, 21))[-1] == 1000.1


async def test_a_pause_stops_all_calls_and_takes_the_burst_away() -> None:
    clock = FakeClock()
    pace = Pace(10, clock)
    pace.pause(5)
    pace.pause(2)  # an earlier end does not shorten it
    assert await times_of(pace, clock, 3) == [5.0, 5.1, 5.2]


async def test_those_who_wait_are_served_in_their_order() -> None:
    clock = FakeClock()
    pace = Pace(1, clock)
    order: list[int] = []

    async def call(number: int) -> None:
        await pace.wait()
        order.append(number)

    await asyncio.gather(*(call(number) for number in range(6)))
    assert order == list(range(6))
