"""What Triton's own metrics say that it holds and has done."""

from collections import defaultdict
from dataclasses import dataclass

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
class Scrape:
    """Triton's metrics as far as they matter here; `output_tokens` only grows while one server lives."""

    load: Load
    output_tokens: float


def parse(text: str) -> Scrape:
    """Read Prometheus text; raises ValueError that names what is missing: absent is not zero."""
    totals: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] += sample.value

    def total(name: str) -> float:
        if name not in totals:
            raise ValueError(f"{name} is not among Triton's metrics: does this server serve a repository of ours?")
        return totals[name]

    return Scrape(
        Load(
            requests=total("transcriber_requests_in_progress"),
            queued_audio_seconds=total("transcriber_queued_audio_seconds"),
            in_flight_audio_seconds=total("transcriber_in_flight_audio_seconds"),
            pending_requests=total("nv_inference_pending_request_count"),
            active_slots=total("transcriber_slots_active"),
        ),
        output_tokens=total("transcriber_output_tokens_total"),
    )
