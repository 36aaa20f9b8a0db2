"""How many tokens to draft in a cycle: the length that commits most tokens a second at the measured acceptance and costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PRIOR_ACCEPTANCE: Final = 0.8
SMOOTHING: Final = 0.15  # weight of a cycle in a row's running acceptance
GIVE_UP_BELOW: Final = 0.35  # a row whose drafts fit this seldom decodes alone…
TRY_AGAIN_CYCLES: Final = 24  # …and is given another chance after so many cycles


@dataclass(frozen=True)
class Costs:
    """Seconds of one draft step and of one verification, as lines in the number of rows and of drafted tokens."""

    draft_base: float
    draft_per_row: float
    verify_base: float
    verify_per_token: float

    def cycle_seconds(self, rows: int, count: int) -> float:
        """Seconds of a cycle that drafts `count` tokens for each of `rows` rows."""
        draft = count * (self.draft_base + rows * self.draft_per_row)
        return draft + self.verify_base + rows * (count + 1) * self.verify_per_token


def fit_costs(draft_seconds: dict[int, float], verify_seconds: dict[tuple[int, int], float]) -> Costs:
    """Fit the lines to seconds measured by row count (draft) and by (row count, tokens a row) (verification)."""

    def line(points: dict[int, float]) -> tuple[float, float]:
        low, high = min(points), max(points)
        slope = max((points[high] - points[low]) / (high - low), 0.0) if high > low else 0.0
        return max(points[low] - slope * low, 1e-9), slope

    draft_base, draft_per_row = line(draft_seconds)
    verify_base, verify_per_token = line({rows * tokens: s for (rows, tokens), s in verify_seconds.items()})
    return Costs(draft_base, draft_per_row, verify_base, verify_per_token)


def expected_tokens(acceptance: float, count: int) -> float:
    """Tokens a cycle is expected to commit, where each draft is accepted with `acceptance`: (1 - a^(K+1)) / (1 - a)."""
    if acceptance >= 1.0:
        return count + 1.0
    return float((1.0 - acceptance ** (count + 1)) / (1.0 - acceptance))


def choose_length(acceptances: Sequence[float], costs: Costs, most: int) -> int:
    """Return the draft length from 0 to `most` with the most expected tokens a second over all rows."""

    def tokens_per_second(count: int) -> float:
        return sum(expected_tokens(a, count) for a in acceptances) / costs.cycle_seconds(len(acceptances), count)

    return max(range(most + 1), key=lambda count: (tokens_per_second(count), -count))


@dataclass
class Acceptance:
    """Running acceptance of one row, and whether its drafts are worth their cost."""

    rate: float = PRIOR_ACCEPTANCE
    resting_cycles: int = 0

    @property
    def is_resting(self) -> bool:
        """Whether the row decodes without drafts for now."""
        return self.resting_cycles > 0

    def observe(self, accepted: int, offered: int) -> None:
        """Take in a cycle that accepted some of the offered drafts; only the first refusal says anything."""
        if not offered:
            self.resting_cycles = max(self.resting_cycles - 1, 0)
            return
        for fits in [1.0] * accepted + [0.0] * (accepted < offered):
            self.rate += SMOOTHING * (fits - self.rate)
        if self.rate < GIVE_UP_BELOW:
            self.resting_cycles, self.rate = TRY_AGAIN_CYCLES, PRIOR_ACCEPTANCE * GIVE_UP_BELOW + GIVE_UP_BELOW
