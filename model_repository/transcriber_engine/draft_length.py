"""How many tokens to draft in a cycle: the length that commits most tokens a second at the measured acceptance and costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

FIRST_GUESS: Final = 0.7  # of acceptance, before anything was drafted
GUESS_TOKENS: Final = 8  # that the guess counts for
SMOOTHING: Final = 0.2  # weight of a drafted token in a row's running acceptance…
EXPECTATION_SMOOTHING: Final = 0.02  # …and in what is expected of the next row, once much was seen
SHORTEST_SECONDS: Final = 1e-9
PROBE_CYCLES: Final = 24  # where drafting does not pay, one token is drafted this often, so that a change is noticed


@dataclass(frozen=True)
class Costs:
    """Seconds of one draft step, and of one verification: what it costs at all, for each row, and for each token of a row."""

    draft_base: float
    draft_per_row: float
    verify_base: float
    verify_per_row: float  # a row's keys and values are read once, however many tokens of it are verified
    verify_per_token: float

    def cycle_seconds(self, lengths: Sequence[int]) -> float:
        """Seconds of a cycle in which each row drafts so many tokens: the rows that draft a further token do so side by side."""
        drafts = [sum(length > depth for length in lengths) for depth in range(max(lengths, default=0))]
        drafted = sum(self.draft_base + rows * self.draft_per_row for rows in drafts)
        return drafted + self.verify_base + sum(self.verify_per_row + (length + 1) * self.verify_per_token for length in lengths)


def fit_costs(draft_seconds: dict[int, float], verify_seconds: dict[tuple[int, int], float]) -> Costs:
    """Fit the costs to seconds measured by row count (draft) and by (row count, tokens a row) (verification).

    Both are measured with one row and with the most there are; verification each time with one token a row and with the most.
    """
    rows, width = max(draft_seconds), max(width for _, width in verify_seconds)

    def slope(low: float, high: float, steps: int) -> float:
        return max((high - low) / steps, 0.0) if steps else 0.0

    draft_per_row = slope(draft_seconds[1], draft_seconds[rows], rows - 1)
    per_token = slope(verify_seconds[rows, 1], verify_seconds[rows, width], rows * (width - 1))
    per_row = max(slope(verify_seconds[1, 1], verify_seconds[rows, 1], rows - 1) - per_token, 0.0)
    return Costs(
        draft_base=max(draft_seconds[1] - draft_per_row, SHORTEST_SECONDS),
        draft_per_row=draft_per_row,
        verify_base=max(verify_seconds[1, 1] - per_row - per_token, SHORTEST_SECONDS),
        verify_per_row=per_row,
        verify_per_token=per_token,
    )


def expected_tokens(acceptance: float, count: int) -> float:
    """Tokens a cycle is expected to commit, where each draft is accepted with `acceptance`: (1 - a^(K+1)) / (1 - a)."""
    if acceptance >= 1.0:
        return count + 1.0
    return float((1.0 - acceptance ** (count + 1)) / (1.0 - acceptance))


def choose_lengths(acceptances: Sequence[float], most: Sequence[int], costs: Costs) -> list[int]:
    """Return for each row the draft length, up to its most, such that together they commit most tokens a second.

    A ratio of sums is maximised by pricing time at the ratio reached so far, until nothing is gained (Dinkelbach, "On Nonlinear
    Fractional Programming", 1967): at a price each row's next token is worth its chance to be committed, less its time.
    """

    def tokens_per_second(lengths: Sequence[int]) -> float:
        return sum(map(expected_tokens, acceptances, lengths)) / costs.cycle_seconds(lengths)

    lengths = [0] * len(acceptances)
    reached = tokens_per_second(lengths)
    while True:
        longer = _lengths_at(reached, acceptances, most, costs)
        if (then := tokens_per_second(longer)) <= reached:
            return lengths
        lengths, reached = longer, then


def _lengths_at(price: float, acceptances: Sequence[float], most: Sequence[int], costs: Costs) -> list[int]:
    """Return the lengths that are worth most, less `price` tokens for every second.

    Rows of which a token pays draft it; one that no row's token pays for ends the drafts, unless deeper ones are free.
    """
    per_token = price * (costs.draft_per_row + costs.verify_per_token)
    lengths, worth, reached = [0] * len(acceptances), 0.0, [0] * len(acceptances)
    best_worth = 0.0
    for depth in range(1, max(most, default=0) + 1):
        going = [i for i, a in enumerate(acceptances) if most[i] >= depth and reached[i] == depth - 1 and a**depth > per_token]
        if not going:
            break
        worth += sum(acceptances[i] ** depth - per_token for i in going) - price * costs.draft_base
        for i in going:
            reached[i] = depth
        if worth > best_worth:
            best_worth, lengths = worth, list(reached)
    return lengths


class Expectation:
    """Acceptance that a new row starts from: what rows of its kind were seen to have, or, of a new kind, rows of all kinds."""

    def __init__(self, of_all: "Expectation | None" = None) -> None:
        self.rate: float = FIRST_GUESS if of_all is None else of_all.rate
        self._seen = 0
        self._of_all = of_all

    def observe(self, fits: float) -> None:
        """Take in one drafted token: 1 where it was accepted, 0 where not. The first weigh most: a useless draft is known soon."""
        self._seen += 1
        self.rate += max(EXPECTATION_SMOOTHING, 1 / (GUESS_TOKENS + self._seen)) * (fits - self.rate)
        if self._of_all is not None:
            self._of_all.observe(fits)


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
