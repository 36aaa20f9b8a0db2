"""Kopf's memory of a resource, kept nowhere: `on.delete` needs neither what was handled last nor how often it was tried."""

from typing import Any

import kopf


class NoDiffBase(kopf.DiffBaseStorage):
    """What a resource was like when it was handled last: never known."""

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Return None."""
        return None

    def store(self, **_: Any) -> None:
        """Write nothing."""


class NoProgress(kopf.ProgressStorage):
    """How far the handlers of a resource are: begun anew each time."""

    def fetch(self, **_: Any) -> None:
        """Know nothing."""

    def store(self, **_: Any) -> None:
        """Write nothing."""

    def purge(self, **_: Any) -> None:
        """Write nothing."""

    def touch(self, **_: Any) -> None:
        """Write nothing."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """Return the essence as it is: nothing of it is ours."""
        return essence
