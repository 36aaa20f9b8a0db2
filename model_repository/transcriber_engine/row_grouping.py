"""How rows must be grouped for a kernel so that a row's result does not depend, bit for bit, on the rows beside it.

A token must not change because its row shared a batch with others or was verified together with drafts. Libraries choose a kernel,
and divide work among threads, by the number of rows; kernels add in different orders. Which numbers of rows are treated alike
differs between CPUs and libraries (in float32 on an AMD EPYC: by fours in Intel MKL 2024.2, all alike or from 2 rows on in oneDNN
3.13), so it is measured where the engine runs, once for each shape, instead of believed.
"""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

LOG = logging.getLogger(__name__)

MULTIPLES: Final = (1, 2, 4, 8, 16, 32)
AT_ONCE: Final = 256
FIXED: Final = (128, 64, 32, 16)  # of a GPU: what a step of decoding has to read takes longer than to multiply so many rows
# Small numbers are common, and kernels change at powers of two.
SAMPLED: Final = (*range(1, 25), 32, 33, 48, 64, 65, 96, 97, 128, 129, 192, AT_ONCE)


@dataclass(frozen=True)
class RowGrouping:
    """Rows are filled up to a multiple of `multiple`, and computed at most `at_once` together."""

    multiple: int
    at_once: int

    def missing(self, rows: int) -> int:
        """Tell how many rows fill `rows` up."""
        return -rows % self.multiple

    def apply(self, compute: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Compute the rows of `inputs`, [..., rows, n] each, in groups: the results [..., rows, m].

        Rows of ones fill up; as a mask, they hide nothing.
        """
        rows = inputs[0].shape[-2]
        if self.multiple == 1 and rows <= self.at_once:
            return compute(*inputs)
        if missing := self.missing(rows):
            inputs = tuple(F.pad(each, (0, 0, 0, missing), value=1) for each in inputs)
        groups = zip(*(torch.split(each, self.at_once, dim=-2) for each in inputs), strict=True)
        results = [compute(*group) for group in groups]
        whole = results[0] if len(results) == 1 else torch.cat(results, dim=-2)
        return whole[..., :rows, :]


ALONE: Final = RowGrouping(multiple=1, at_once=1)
"""Every row in a call of its own: calls of one shape are always alike."""

_measured: dict[Hashable, RowGrouping] = {}


UP_TO_256: Final = tuple(RowGrouping(multiple, AT_ONCE) for multiple in MULTIPLES)
ALWAYS_AS_MANY: Final = tuple(RowGrouping(rows, rows) for rows in FIXED)
"""As many rows in every call, so that a library, which chooses a kernel by the shape, has nothing to choose."""


def row_grouping(key: Hashable, compute: Callable[[int], Tensor], groupings: Sequence[RowGrouping] = UP_TO_256) -> RowGrouping:
    """Return the first grouping in which equal rows have equal results wherever they stand; measured once for a `key`.

    `compute(rows)` gives the results [rows, …] of that many equal rows; `key` names all that its kernels may be chosen by, but for
    the number of rows and of threads.
    """
    key = (key, torch.get_num_threads())
    if key not in _measured:
        _measured[key] = measure(compute, groupings)
        if _measured[key] == ALONE:
            LOG.warning(
                "no number of rows gives reproducible results on this machine; each row is computed alone, which is slow: %s", key
            )
    return _measured[key]


def measure(compute: Callable[[int], Tensor], groupings: Sequence[RowGrouping] = UP_TO_256) -> RowGrouping:
    """Measure the grouping of one computation; see `row_grouping`."""
    for grouping in groupings:
        row = compute(grouping.multiple)[:1]
        counts = sorted({rows + grouping.missing(rows) for rows in SAMPLED if rows <= grouping.at_once})
        if all(bool((compute(count) == row).all()) for count in counts):
            return grouping
    return ALONE
