"""How many tokens to draft in a cycle: the length that commits most tokens a second at the measured acceptance and costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

FIRST_GUESS: Final = 0.8  # of acceptance, before anything was drafted
SMOOTHING: Final = 0.15  # weight of a drafted token in a row's running acceptance…
EXPECTATION_SMOOTHING: Final = 0.02  # …and in what is expected of the next row
PROBE_CYCLES: Final = 24  # where drafting does not pay, one token is drafted this often, so that a change is noticed


@dataclass(frozen=True)
class Costs:
    """Seconds of one draft step and of one verification, as lines in the number of rows and of drafted tokens."""

    draft_base: float
    draft_per_row: float
    verify_base: float
    verify_per_token: float

    def cycle_seconds(self, drafting: int, resting: int, count: int) -> float:
        """Seconds of a cycle that drafts `count` tokens for some rows; all rows are verified side by side, at the same width."""
        draft = count * (self.draft_base + drafting * self.draft_per_row)
        return draft + self.verify_base + (drafting + resting) * (count + 1) * self.verify_per_token


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


def choose_length(acceptances: Sequence[float], resting: int, costs: Costs, most: int) -> int:
    """Return the draft length from 0 to `most` that commits most tokens a second, over rows that draft and rows that rest."""

    def tokens_per_second(count: int) -> float:
        tokens = sum(expected_tokens(a, count) for a in acceptances) + resting
        return tokens / costs.cycle_seconds(len(acceptances), resting, count)

    return max(range(most + 1), key=lambda count: (tokens_per_second(count), -count))


def pays(acceptance: float, rows: int, costs: Costs, most: int) -> bool:
    """Whether drafting pays in a batch of `rows` rows that all have this acceptance."""
    return choose_length([acceptance] * rows, 0, costs, most) > 0


@dataclass
class Expectation:
    """Acceptance that a new row starts from: what rows of its kind were seen to have."""

    rate: float = FIRST_GUESS

    def observe(self, fits: float) -> None:
        """Take in one drafted token: 1 where it was accepted, 0 where not."""
        self.rate += EXPECTATION_SMOOTHING * (fits - self.rate)


class Acceptance:
    """Running acceptance of one row, which starts where its kind stands and tells its kind what it sees."""

    def __init__(self, expectation: Expectation) -> None:
        self.rate = expectation.rate
        self._expectation = expectation

    def observe(self, accepted: int, offered: int) -> None:
        """Take in a cycle that accepted some of the offered drafts; of those refused only the first says anything."""
        for fits in [1.0] * accepted + [0.0] * (accepted < offered):
            self.rate += SMOOTHING * (fits - self.rate)
            self._expectation.observe(fits)
