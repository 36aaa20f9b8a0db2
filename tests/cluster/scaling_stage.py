"""What scaling scenarios share: where one plays, and files that come at even times."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.quick_pods import Parts
from tests.rig.feeder import File


@dataclass
class Stage:
    """Where a scenario plays: what it shares with others, its own namespace, and the figures that it records."""

    parts: Parts
    namespace: str
    folder: Path
    figures: dict[str, object] = field(default_factory=dict)

    def record(self, **figures: object) -> None:
        """Keep figures for the report."""
        self.figures.update(figures)


Scenario = Callable[[Stage], Awaitable[None]]


def clock() -> float:
    """Return the time of the event loop, in seconds."""
    return asyncio.get_running_loop().time()


def steadily(audio_seconds: float, every_seconds: float, for_seconds: float) -> list[File]:
    """Return files of one length at even times."""
    return [File(at * every_seconds, audio_seconds) for at in range(int(for_seconds / every_seconds))]


def since(began_at: float, decisions: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return decisions with their times from a beginning, for a report."""
    return [(round(at - began_at, 1), replicas) for at, replicas in decisions]
