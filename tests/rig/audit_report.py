"""The audit of a test session: rights that nobody used, and calls that were refused; in words, and whether that is a failure."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.chart.rendering import NAMESPACE, HelmError, rendered
from tests.rig.audit import SHOWN_ELSEWHERE, Call, Right, kept, refused, rights, unused

# What the chart grants depends on these.
VARIANTS: Final[tuple[dict[str, Any], ...]] = ({}, {"watchNamespaces": ["speech"]}, {"crds": {"keep": False}})


@dataclass(frozen=True)
class Report:
    """What a session showed; `is_whole` where it ran all tests, so that rights that were not used are not needed.

    `trouble` keeps it from knowing what is granted.
    """

    granted: frozenset[Right]
    made: frozenset[Call]
    is_whole: bool
    trouble: str = ""

    @property
    def failures(self) -> list[str]:
        """What must not be."""
        not_used = [f"granted and never used: {right}" for right in unused(self.granted, self.made)] if self.is_whole else []
        trouble = [f"the chart cannot be rendered: {self.trouble}"] if self.trouble else []
        return [*trouble, *(f"refused: {call}" for call in refused(self.made)), *not_used]

    def lines(self) -> list[str]:
        """Return it for people."""
        by_account = [self._line(account) for account in sorted({right.account for right in self.granted})]
        elsewhere = [f"no call shows {right}: {proof}" for right, proof in SHOWN_ELSEWHERE.items() if right in self.granted]
        on_purpose = sorted({str(call) for call in self.made if call.is_on_purpose})
        return [*by_account, *elsewhere, f"refused on purpose: {len(on_purpose)} kinds of calls", *self.failures]

    def _line(self, account: str) -> str:
        granted = {right for right in self.granted if right.account == account}
        used = granted & {right for call in self.made for right in call.rights}
        return (
            f"{account}: {len(granted)} rights granted, {len(used)} used, {len(granted & SHOWN_ELSEWHERE.keys())} shown elsewhere"
        )


def granted() -> set[Right]:
    """Return all rights that the chart may give; raises BuildError where helm is not built."""
    return {right for values in VARIANTS for right in rights(rendered(values), NAMESPACE)}


def report_of(folder: Path, *, is_whole: bool) -> Report | None:
    """Return the report of what was written to a folder; None where no account of ours asked for anything."""
    made = frozenset(kept(folder))
    if not made:
        return None
    try:
        return Report(frozenset(granted()), made, is_whole)
    except HelmError as error:
        return Report(frozenset(), made, is_whole, trouble=str(error))
