"""How the pod bridge differs from a kubelet, in numbers and names."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.rig.bridge_environment import Manifest

Replace = Callable[[Manifest, tuple[str, ...]], tuple[str, ...]]


def _as_it_is(_pod: Manifest, argv: tuple[str, ...]) -> tuple[str, ...]:
    return argv


@dataclass(frozen=True)
class Settings:
    """What a test may choose.

    `programs` are executables by the name that a manifest has for them: the bridge has no images. `environment` stands for
    that of the image: it is in every container, under what the manifest says. `replaced` is given a pod and the argv of one of
    its containers, and returns what runs in its place, such as a stub of what is too large to run often. A kubelet's back-off
    starts at 10 s and doubles up to 300 s, and a container that ran for 600 s starts over; here each is a fiftieth of that, or
    less.
    """

    programs: Mapping[str, str] = field(default_factory=lambda: {"python3": sys.executable, "python": sys.executable})
    environment: Mapping[str, str] = field(default_factory=dict)
    replaced: Replace = _as_it_is
    backoff_initial_seconds: float = 0.2
    backoff_max_seconds: float = 5.0
    backoff_reset_seconds: float = 12.0
    retry_seconds: float = 0.5  # until a missing ConfigMap, Secret or claim is looked for again

    def backoff_seconds(self, ends_in_a_row: int) -> float:
        """Return the wait before the next start: none after the first end, then doubling."""
        if ends_in_a_row <= 1:
            return 0.0
        return float(min(self.backoff_initial_seconds * 2 ** (ends_in_a_row - 2), self.backoff_max_seconds))
