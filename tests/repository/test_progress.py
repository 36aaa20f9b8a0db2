"""Log lines of a long build."""

from transcriber_repository.progress import MEBIBYTE, LogLines, Meter


class Clock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_is_written_at_the_start_then_every_15_seconds_and_at_the_end() -> None:
    clock, lines = Clock(), list[str]()
    with Meter("fetch target", 100 * MEBIBYTE, LogLines(lines.append, clock), clock) as meter:
        for _ in range(40):
            clock.now += 1.0
            meter.advance(MEBIBYTE)
    assert lines == [
        "fetch target: 0.0 of 100.0 MiB",
        "fetch target: 15.0 of 100.0 MiB, 1.0 MiB/s, 85 s left",
        "fetch target: 30.0 of 100.0 MiB, 1.0 MiB/s, 70 s left",
        "fetch target: 40.0 of 100.0 MiB, 1.0 MiB/s, done",
    ]


def test_bytes_of_an_earlier_try_count_as_done_but_not_as_speed() -> None:
    clock, lines = Clock(), list[str]()
    with Meter("fetch target", 100 * MEBIBYTE, LogLines(lines.append, clock), clock) as meter:
        meter.advance(60 * MEBIBYTE, transferred=False)
        clock.now += 20.0
        meter.advance(20 * MEBIBYTE)
    assert lines[1] == "fetch target: 80.0 of 100.0 MiB, 1.0 MiB/s, 20 s left"


def test_unknown_total_is_left_out() -> None:
    clock, lines = Clock(), list[str]()
    with Meter("fetch draft", None, LogLines(lines.append, clock), clock) as meter:
        clock.now += 15.0
        meter.advance(30 * MEBIBYTE)
    assert lines[1] == "fetch draft: 30.0 MiB, 2.0 MiB/s"


def test_stage_that_fails_is_not_reported_as_done() -> None:
    clock, lines = Clock(), list[str]()
    try:
        with Meter("convert", 1, LogLines(lines.append, clock), clock):
            raise OSError("disk")
    except OSError:
        pass
    assert lines == ["convert: 0.0 of 0.0 MiB"]
