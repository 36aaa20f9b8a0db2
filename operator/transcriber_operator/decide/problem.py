"""Something that is not as it should be."""

from dataclasses import dataclass

from transcriber_api.conditions import Reason


@dataclass(frozen=True)
class Problem:
    """Why something falls short: a reason and a sentence with the next action; `needs_action` if it cannot pass by itself."""

    reason: Reason
    message: str
    needs_action: bool = True


def shortened(text: str, characters: int = 500) -> str:
    """Return `text` on one line, cut to fit a sentence of a condition; of a long text the end tells most."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= characters else f"…{line[-characters:]}"
