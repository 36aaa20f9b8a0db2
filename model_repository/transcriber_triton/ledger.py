"""Books the audio that `transcribe` holds: how much came in, how much waits, how much is being decoded, how much was answered.

Counted in samples of 16 kHz, so that what comes in and goes out adds up to zero. A canary takes its place in the limits and shows
in no figure of work: a server that does nothing but pass canaries is idle.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from transcriber_engine.audio import SAMPLE_RATE_HZ
from transcriber_engine.errors import Refusal, RequestError
from transcriber_engine.longform import Window


@dataclass(frozen=True)
class Load:
    """What is held now, and what came in and went out since the start; audio in samples, without that of canaries."""

    requests: int = 0
    queued: int = 0  # announced or read, and in no window that is on its way or decoded
    in_flight: int = 0  # in windows handed to `whisper` that are not back
    finished: int = 0  # of requests that were answered with a transcript
    admitted_requests: int = 0  # those of whose audio something became known; not those refused for its length
    admitted: int = 0  # announced or read, whichever was more: what was announced too long is not taken back
    decoded: int = 0  # in windows that came back decoded, with the silence before them; so it reaches what was read
    canaries: int = 0  # held now, and counted nowhere else


class AudioLedger:
    """The load of one server; safe for use by many threads, as are its accounts."""

    def __init__(self, max_requests: int, max_queued_seconds: int, report: Callable[[Load], None]) -> None:
        """Start empty; `report` is told every change, in order."""
        self._max_requests = max_requests
        self._max_queued_seconds = max_queued_seconds
        self._report = report
        self._lock = threading.Lock()
        self._load = Load()
        self._requests = 0  # held, with canaries
        self._queued = 0

    def open(self, samples: int, *, is_canary: bool = False) -> "Account":
        """Take in a request of which so much is known by now; raises RequestError (RESOURCE_EXHAUSTED) where it is too much."""
        account = Account(self, is_canary)
        with self.booking(account, requests=1):
            if self._requests >= self._max_requests:
                raise _exhausted(f"{self._max_requests} requests are being served already")
            self.check_room(samples)
            account.announced = samples
        return account

    def check_room(self, samples: int) -> None:
        """Raise RequestError where so much more audio may not wait; call it within a booking."""
        limit = self._max_queued_seconds * SAMPLE_RATE_HZ
        if self._queued >= limit or self._queued + samples > limit:
            waiting = f"{self._queued / SAMPLE_RATE_HZ:.0f} s of audio wait already"
            raise _exhausted(f"{waiting}, at most {self._max_queued_seconds} s may (spec.runtime.maxQueuedAudioSeconds)")

    @contextmanager
    def booking(self, account: "Account", **changes: int) -> Iterator[None]:
        """Carry a change of an account, and changes of other figures, over to the load; not if the body raises."""
        with self._lock:
            before = account.queued
            yield
            requests, queued = changes.get("requests", 0), account.queued - before
            self._requests += requests
            self._queued += queued
            admitted_requests, admitted = account.admit()
            changes |= {"queued": queued, "admitted_requests": admitted_requests, "admitted": admitted}
            shown = {"canaries": requests} if account.is_canary else changes
            self._load = replace(self._load, **{name: getattr(self._load, name) + by for name, by in shown.items()})
            self._report(self._load)


@dataclass
class Account:
    """What one request holds, in samples; made by `AudioLedger.open`."""

    ledger: AudioLedger
    is_canary: bool = False
    announced: int = 0
    read: int = 0
    admitted: int = 0
    sent_until: int = 0
    spans: dict[int, int] = field(default_factory=dict)  # of windows on their way: start -> samples, with the silence before it
    is_closed: bool = False

    @property
    def queued(self) -> int:
        """Samples known of that were not handed over."""
        return 0 if self.is_closed else max(max(self.announced, self.read) - self.sent_until, 0)

    def admit(self) -> tuple[int, int]:
        """Return the requests (1 at the first audio) and the samples that became known since the last call."""
        known = max(self.announced, self.read, self.admitted)
        grown, is_first = known - self.admitted, self.admitted == 0 < known
        self.admitted = known
        return int(is_first), grown

    def announce(self, samples: int) -> None:
        """Book what a header announces, before anything is read; raises RequestError (RESOURCE_EXHAUSTED) where it is too much."""
        with self.ledger.booking(self):
            self.ledger.check_room(samples)
            self.announced = samples

    def add(self, samples: int) -> None:
        """Book audio that was read."""
        with self.ledger.booking(self):
            self.read += samples

    def end_of_audio(self) -> None:
        """Book that there is no more than was read, whatever was announced."""
        with self.ledger.booking(self):
            self.announced = self.read

    def send(self, window: Window) -> None:
        """Book a window as on its way, and all audio before its end as no longer waiting."""
        samples = window.samples.shape[0]
        with self.ledger.booking(self, in_flight=samples):
            end = window.start_sample + samples
            self.spans[window.start_sample] = end - self.sent_until
            self.sent_until = end

    def receive(self, window: Window, *, is_decoded: bool) -> None:
        """Book a window as back."""
        span = self.spans.pop(window.start_sample)
        with self.ledger.booking(self, in_flight=-window.samples.shape[0], decoded=span if is_decoded else 0):
            pass

    def close(self, *, answered: bool) -> None:
        """Book the end of the request; its audio counts as finished where it was answered with a transcript."""
        finished, silence = (self.read, self.read - self.sent_until) if answered else (0, 0)
        with self.ledger.booking(self, requests=-1, finished=finished, decoded=silence):
            self.is_closed = True


def _exhausted(reason: str) -> RequestError:
    return RequestError("AUDIO", f"{reason}; try again later", Refusal.RESOURCE_EXHAUSTED)
