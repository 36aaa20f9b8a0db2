"""What Triton's own metrics say that it holds and has done."""

import math
from collections import defaultdict
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Load:
    """Work at hand. Windows that a gateway sends reach `whisper` directly: they show as pending requests and active slots alone."""

    requests: float = 0.0  # whole files, from admission to answer
    queued_audio_seconds: float = 0.0
    in_flight_audio_seconds: float = 0.0
    pending_requests: float = 0.0  # in Triton's queues, of all models
    active_slots: float = 0.0  # windows being decoded

    @property
    def is_idle(self) -> bool:
        """Whether there is none."""
        return self == Load()


@dataclass(frozen=True)
class Counters:
    """What one server has done since its start; the figures of audio leave out canaries."""

    admitted_requests_total: float = 0.0
    admitted_audio_seconds_total: float = 0.0
    processed_audio_seconds_total: float = 0.0  # in windows that came back decoded, with the silence around them
    output_tokens_total: float = 0.0
    draft_tokens_total: float = 0.0
    accepted_tokens_total: float = 0.0
    cycles_total: float = 0.0

    def is_behind(self, other: "Counters") -> bool:
        """Whether any is below what it was in `other`: then another server counts."""
        return any(now < before for now, before in zip(astuple(self), astuple(other), strict=True))


@dataclass(frozen=True)
class Scrape:
    """Triton's metrics as far as they matter here."""

    load: Load
    counters: Counters
    server_start_time_seconds: float  # Unix time
    canaries: float = 0.0  # in progress; each may hold a slot


# Where each figure stands in Triton's metrics; of all models where several have it.
LOAD_SERIES: Final = {
    "requests": "transcriber_requests_in_progress",
    "queued_audio_seconds": "transcriber_queued_audio_seconds",
    "in_flight_audio_seconds": "transcriber_in_flight_audio_seconds",
    "pending_requests": "nv_inference_pending_request_count",
    "active_slots": "transcriber_slots_active",
}
COUNTER_SERIES: Final = {
    "admitted_requests_total": "transcriber_admitted_requests_total",
    "admitted_audio_seconds_total": "transcriber_admitted_audio_seconds_total",
    "processed_audio_seconds_total": "transcriber_decoded_audio_seconds_total",
    "output_tokens_total": "transcriber_output_tokens_total",
    "draft_tokens_total": "transcriber_draft_tokens_total",
    "accepted_tokens_total": "transcriber_accepted_tokens_total",
    "cycles_total": "transcriber_cycles_total",
}
START_SERIES: Final = "transcriber_server_start_time_seconds"
CANARIES_SERIES: Final = "transcriber_canaries_in_progress"
SERIES: Final = frozenset({*LOAD_SERIES.values(), *COUNTER_SERIES.values(), START_SERIES, CANARIES_SERIES})


def parse(text: str) -> Scrape:
    """Read Prometheus text; raises ValueError that names what is missing or no figure: neither is zero."""
    totals: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in SERIES:
                if not 0 <= sample.value < math.inf:
                    raise ValueError(f"{sample.name} is {sample.value}, which no server of ours can mean; its metrics are not used")
                totals[sample.name] += sample.value

    def total(name: str) -> float:
        if name not in totals:
            raise ValueError(f"{name} is not among Triton's metrics: does this server serve a repository of ours?")
        return totals[name]

    return Scrape(
        load=Load(**{field: total(name) for field, name in LOAD_SERIES.items()}),
        counters=Counters(**{field: total(name) for field, name in COUNTER_SERIES.items()}),
        server_start_time_seconds=total(START_SERIES),
        canaries=total(CANARIES_SERIES),
    )


@dataclass(frozen=True)
class Known:
    """What is known of Triton's work: what it said last, and `reason` where it does not say so any more."""

    last: Scrape | None = None
    asked_at: float = 0.0  # for `last`, monotonic seconds
    counters_since: float | None = None  # of `last`, Unix time
    reason: str | None = "Triton has not been asked yet"

    def with_scrape(self, scrape: Scrape, asked_at: float, unix_seconds: float) -> "Known":
        """Take in what Triton says. Its counters begin with the server, or now where they fell without another one."""
        since = scrape.server_start_time_seconds
        if self.last is not None and self.counters_since is not None and since == self.last.server_start_time_seconds:
            since = unix_seconds if scrape.counters.is_behind(self.last.counters) else self.counters_since
        return Known(scrape, asked_at, since, reason=None)

    def without(self, reason: str) -> "Known":
        """Take in that Triton does not say, or says what cannot be; what it said before is kept to compare with."""
        return replace(self, reason=reason)

    def answer(self, at: float, *, is_draining: bool) -> dict[str, Any]:
        """Return what GET /load tells the operator, of work only: a slot that a canary holds, or may hold, is not in it."""
        load = None
        if self.last is not None and self.reason is None:
            load = {
                "age_seconds": round(at - self.asked_at, 3),
                "queued_audio_seconds": self.last.load.queued_audio_seconds,
                "in_flight_audio_seconds": self.last.load.in_flight_audio_seconds,
                "requests": self.last.load.requests,
                "active_slots": max(self.last.load.active_slots - self.last.canaries, 0.0),
                **asdict(self.last.counters),
            }
        return {"load": load, "server_started_at": self.counters_since, "draining": is_draining, "reason": self.reason}
