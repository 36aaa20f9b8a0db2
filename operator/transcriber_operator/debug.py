"""The last pass of every resource, kept small: what `transcriber explain` shows and a bug report carries."""

import zlib
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from transcriber_operator.decide.decision import Decision
from transcriber_operator.decide.observed import Observed

FASTEST = 1  # level of compression; manifests are repetitive enough for it


class Explanation(BaseModel):
    """One pass: what was observed, when it was decided, what on, and how long the whole took."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    observed: Observed
    now: datetime
    decision: Decision
    pass_seconds: float


class Journal:
    """Keeps an `Explanation` per resource as compressed JSON: a tenth of its size and none of its objects."""

    def __init__(self) -> None:
        self._passes: dict[tuple[str, str], bytes] = {}

    def record(self, namespace: str, name: str, explanation: Explanation) -> None:
        """Keep the latest pass of a resource."""
        self._passes[namespace, name] = zlib.compress(explanation.model_dump_json(by_alias=True).encode(), FASTEST)

    def forget(self, namespace: str, name: str) -> None:
        """Drop a resource that is gone."""
        self._passes.pop((namespace, name), None)

    def read(self, namespace: str, name: str) -> bytes | None:
        """Return the JSON of an `Explanation`, None for a resource that had no pass."""
        kept = self._passes.get((namespace, name))
        return zlib.decompress(kept) if kept is not None else None

    def names(self) -> list[str]:
        """Return the resources that had a pass, as NAMESPACE/NAME."""
        return sorted(f"{namespace}/{name}" for namespace, name in self._passes)
