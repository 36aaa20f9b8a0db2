"""From what each source said to one `Look`: lies are refused, counters survive restarts, and throughput is learnt.

A source that is not believed counts as one that did not tell: the look is then incomplete, and nobody lowers replicas by it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, isfinite
from typing import Final

from transcriber_operator.decide.autoscale import Look
from transcriber_operator.decide.sources import LoadSample

GAUGES: Final = ("queued_audio_seconds", "in_flight_audio_seconds", "requests", "active_slots")
WORK: Final = ("admitted_requests_total", "admitted_audio_seconds_total", "processed_audio_seconds_total")
COUNTERS: Final = (*WORK, "output_tokens_total", "draft_tokens_total", "accepted_tokens_total", "cycles_total")
MOST_PER_SECOND: Final = 10_000.0  # audio seconds, or requests, that no replica takes in or decodes
RESTART_SECONDS: Final = 1.0  # between two starts of one server, at least; less is how exactly its start is known
FROZEN_SECONDS: Final = 300.0  # without any change while audio is in flight: far more than one window takes
FORGOTTEN_SECONDS: Final = 3600.0  # without a word from a source
LEARNING_SECONDS: Final = 30.0  # of work at full load, until the prior counts no more
MEMORY_SECONDS: Final = 1800.0  # of work at full load, over which throughput is averaged
MOST_BETWEEN_LOOKS: Final = 60.0  # seconds in which a queue that is there before and after has not been empty
BUSY_SHARE: Final = 0.25  # of the slots; with fewer the queue waits for its own audio to be sent, and not for the replica
BELIEVED: Final = 10.0  # times more or less than the prior that a throughput may be


@dataclass(frozen=True, slots=True)
class Known:
    """A source as it was last."""

    sample: LoadSample
    unchanged_since_seconds: float
    busy_since: tuple[float, float] | None = None  # at full load: a time of it, and what was decoded by then; None: it is not


@dataclass(frozen=True, slots=True)
class Learnt:
    """Audio decoded by replicas of a pool at full load, and the time that took, in seconds; older work counts less."""

    pool: str
    decoded_audio_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Each source as it was, and the throughput learnt of each pool; JSON-able."""

    sources: tuple[Known, ...] = ()
    learnt: tuple[Learnt, ...] = ()
    began_at_seconds: float | None = None  # of the first reading: what started later, and is not known, is new
    at_seconds: float | None = None  # of the last look


@dataclass(frozen=True, slots=True)
class Limits:
    """Beyond what a figure of one replica cannot be true."""

    max_queued_audio_seconds: float
    max_in_flight_audio_seconds: float
    stale_after_seconds: float
    slots: int = 0  # windows that a replica decodes at once; 0: not known


@dataclass(frozen=True, slots=True)
class Reading:
    """What the samples say together."""

    look: Look | None  # None: nobody told anything
    memory: Memory
    refused: tuple[str, ...]  # sentences: whose figures are not believed, and why
    processed_audio_seconds: float  # since the last reading
    age_seconds: float | None  # of the oldest sample that counts
    acceptance_percent: int | None = None
    tokens_per_cycle: float | None = None


@dataclass(frozen=True, slots=True)
class _Increase:
    """By how much the counters of a source grew."""

    requests: float = 0.0
    admitted_audio_seconds: float = 0.0
    processed_audio_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Told:
    """What one source adds to a look; `refusal` says why it is not believed."""

    known: Known
    increase: _Increase = _Increase()
    work: tuple[float, float] | None = None  # audio decoded at full load, and the time that took
    refusal: str | None = None


def read(
    samples: Sequence[LoadSample],
    expected: Sequence[str],
    pool_of: Mapping[str, str],
    limits: Limits,
    memory: Memory,
    now_seconds: float,
) -> Reading:
    """Add up the samples; `expected` are the sources that should have told, `pool_of` the pool of each replica.

    Sources that are not expected, such as replicas that drain, count where they tell. What a source took in since it was heard last
    counts once, however long that is ago; reading the same samples again adds nothing.
    """
    known = {each.sample.source: each for each in memory.sources}
    newest = {sample.source: sample for sample in sorted(samples, key=lambda sample: sample.at)}
    lies = {source: lie for source, sample in newest.items() if (lie := _lie(sample, limits, now_seconds))}
    began_at = now_seconds if memory.began_at_seconds is None else memory.began_at_seconds
    new_since = max(began_at, now_seconds - FORGOTTEN_SECONDS)
    told = [_told(sample, known.get(source), new_since, limits) for source, sample in newest.items() if source not in lies]
    counted = [each for each in told if each.refusal is None]
    believed = [each.known.sample for each in counted]
    heard = known | {each.known.sample.source: each.known for each in told}
    is_complete = {sample.source for sample in believed} >= set(expected)
    times = [min(sample.at.timestamp(), now_seconds) for sample in believed]
    at = max((*times, memory.at_seconds or 0.0)) if times else memory.at_seconds
    gained = [(pool_of.get(each.known.sample.source), each.work) for each in counted]
    after = Memory(
        sources=tuple(each for each in heard.values() if now_seconds - each.sample.at.timestamp() < FORGOTTEN_SECONDS),
        learnt=_learn(memory.learnt, [(pool, work) for pool, work in gained if pool and work]),
        began_at_seconds=began_at,
        at_seconds=at,
    )
    return Reading(
        look=_look(counted, at, is_complete=is_complete) if at is not None and believed else None,
        memory=after,
        refused=(*lies.values(), *(each.refusal for each in told if each.refusal)),
        processed_audio_seconds=sum(each.increase.processed_audio_seconds for each in counted),
        age_seconds=now_seconds - min(times) if times else None,
        acceptance_percent=_acceptance_percent(believed),
        tokens_per_cycle=_tokens_per_cycle(believed),
    )


def throughput(pool: str, memory: Memory, prior: float) -> float:
    """Return the audio seconds per second of one replica of a pool, as learnt or else `prior`.

    Between the two it moves from the prior to what is learnt over the first half minute at full load; more than ten times more or
    less than the prior is not believed.
    """
    found = next((each for each in memory.learnt if each.pool == pool), None)
    if found is None or not found.seconds:
        return prior
    trust = min(found.seconds / LEARNING_SECONDS, 1.0)
    mixed = trust * found.decoded_audio_seconds / found.seconds + (1 - trust) * prior
    return min(max(mixed, prior / BELIEVED), prior * BELIEVED)


def _look(counted: Sequence[_Told], at_seconds: float, *, is_complete: bool) -> Look:
    return Look(
        at_seconds=at_seconds,
        queued_audio_seconds=sum(each.known.sample.queued_audio_seconds for each in counted),
        in_flight_audio_seconds=sum(each.known.sample.in_flight_audio_seconds for each in counted),
        arrived_audio_seconds=sum(each.increase.admitted_audio_seconds for each in counted),
        arrived_requests=sum(each.increase.requests for each in counted),
        is_complete=is_complete,
    )


def _lie(sample: LoadSample, limits: Limits, now_seconds: float) -> str | None:
    """Return why a sample cannot be true or is of no use any more, by itself. The sentence stays the same while the reason does."""
    for field in (*GAUGES, *COUNTERS):
        value = getattr(sample, field)
        if not isfinite(value) or value < 0:
            return _disbelief(sample, f"{field} is {'negative' if value < 0 else 'no finite number'}")
    for field, most in (
        ("queued_audio_seconds", limits.max_queued_audio_seconds),
        ("in_flight_audio_seconds", limits.max_in_flight_audio_seconds),
    ):
        if getattr(sample, field) > most:
            return _disbelief(sample, f"{field} is above {most:.0f} s, the most that one replica can hold")
    age = now_seconds - sample.at.timestamp()
    if age < -limits.stale_after_seconds:
        return f"The figures of {sample.source} are from the future; set the clock of its node."
    if age > limits.stale_after_seconds:
        old = f"older than {limits.stale_after_seconds:.0f} s"
        return f"The figures of {sample.source} are {old}; see the logs of its triton and exporter."
    return None


def _disbelief(sample: LoadSample, reason: str) -> str:
    return f"The figures of {sample.source} are not believed: {reason}; see the log of its exporter."


def _told(sample: LoadSample, before: Known | None, new_since_seconds: float, limits: Limits) -> _Told:
    """Return what a source adds, by what is known of it from before; a server that began since a given time is new."""
    at = sample.at.timestamp()
    if before is not None and sample.at <= before.sample.at:
        return _Told(before, refusal=_frozen(before))
    anew = Known(sample, at, _busy(sample, limits))
    if before is None and (sample.started_at is None or _start(sample) < new_since_seconds):
        return _Told(anew)
    from_zero = before is None or _has_restarted(before.sample, sample)
    last = None if before is None or from_zero else before.sample
    since = max(before.sample.at.timestamp() if before else 0.0, _start(sample) if from_zero else 0.0)
    refusal = _contradiction(last, sample, at - since, limits)
    if refusal:  # its counters go on from here: one jump is not held against a source for ever
        return _Told(anew, refusal=refusal)
    if before is None or from_zero:
        return _Told(anew, _increase(None, sample))
    busy_since, work = _work(before, sample, limits)
    is_unchanged = _figures(sample) == _figures(before.sample)
    known = Known(sample, before.unchanged_since_seconds if is_unchanged else at, busy_since)
    return _Told(known, _increase(last, sample), work, _frozen(known))


def _contradiction(before: LoadSample | None, sample: LoadSample, elapsed_seconds: float, limits: Limits) -> str | None:
    """Return why counters cannot have come so far in a time, from where they were before or from zero."""
    if before is not None:
        for field in COUNTERS:
            if getattr(sample, field) < getattr(before, field):
                return _disbelief(sample, f"{field} fell although its server was not restarted")
    most = limits.max_queued_audio_seconds + limits.max_in_flight_audio_seconds + MOST_PER_SECOND * max(elapsed_seconds, 0.0)
    for field in WORK:
        if getattr(sample, field) - (getattr(before, field) if before else 0.0) > most:
            return _disbelief(sample, f"{field} grew faster than any replica works")
    return None


def _frozen(known: Known) -> str | None:
    sample = known.sample
    if sample.in_flight_audio_seconds <= 0 or sample.at.timestamp() - known.unchanged_since_seconds < FROZEN_SECONDS:
        return None
    return _disbelief(sample, f"nothing has changed for {FROZEN_SECONDS / 60:.0f} min although audio is being decoded")


def _increase(before: LoadSample | None, sample: LoadSample) -> _Increase:
    """By how much the counters grew; without `before`, since the start of the server."""
    return _Increase(*(getattr(sample, field) - (getattr(before, field) if before else 0.0) for field in WORK))


def _has_restarted(before: LoadSample, sample: LoadSample) -> bool:
    """Whether the counters began anew: by the server's start, or where it does not tell, because one fell."""
    if sample.started_at is None or before.started_at is None:
        return any(getattr(sample, field) < getattr(before, field) for field in COUNTERS)
    return abs(_start(sample) - _start(before)) > RESTART_SECONDS


def _start(sample: LoadSample) -> float:
    return sample.started_at.timestamp() if sample.started_at else 0.0


def _figures(sample: LoadSample) -> tuple[float, ...]:
    return tuple(getattr(sample, field) for field in (*GAUGES, *COUNTERS))


def _busy(sample: LoadSample, limits: Limits) -> tuple[float, float] | None:
    """Where a span of full load begins: audio waits, and enough slots are taken that it waits for the replica."""
    is_busy = sample.queued_audio_seconds > 0 and sample.active_slots >= BUSY_SHARE * limits.slots
    return (sample.at.timestamp(), sample.processed_audio_seconds_total) if is_busy else None


def _work(before: Known, sample: LoadSample, limits: Limits) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Return where the span of full load begins now, and the work in it: audio decoded, and the time that took.

    Windows come back in lumps, so a span is only cut where some did; one in which nothing does yet goes on.
    """
    now, since = _busy(sample, limits), before.busy_since
    if now is None or since is None or (sample.at - before.sample.at).total_seconds() > MOST_BETWEEN_LOOKS:
        return now, None
    decoded = now[1] - since[1]
    return (now, (decoded, now[0] - since[0])) if decoded > 0 else (since, None)


def _learn(learnt: tuple[Learnt, ...], gained: Iterable[tuple[str, tuple[float, float]]]) -> tuple[Learnt, ...]:
    """Add work at full load to what is learnt of its pool; both sums fade, so their ratio is a mean weighted by time."""
    known = {each.pool: each for each in learnt}
    for pool, (decoded, seconds) in gained:
        before = known.get(pool, Learnt(pool, 0.0, 0.0))
        fade = exp(-seconds / MEMORY_SECONDS)
        known[pool] = replace(
            before,
            decoded_audio_seconds=before.decoded_audio_seconds * fade + decoded,
            seconds=before.seconds * fade + seconds,
        )
    return tuple(known.values())


def _acceptance_percent(samples: Sequence[LoadSample]) -> int | None:
    drafted = sum(sample.draft_tokens_total for sample in samples)
    accepted = sum(sample.accepted_tokens_total for sample in samples)
    return min(round(100 * accepted / drafted), 100) if drafted > 0 else None


def _tokens_per_cycle(samples: Sequence[LoadSample]) -> float | None:
    """Tokens that a window gains per pass of the target: the drafted ones that it kept, and one of its own.

    `cycles_total` counts passes of whole batches; every pass gives a window exactly one token that was not drafted.
    """
    output = sum(sample.output_tokens_total for sample in samples)
    passes = output - sum(sample.accepted_tokens_total for sample in samples)
    return output / passes if passes > 0 else None
