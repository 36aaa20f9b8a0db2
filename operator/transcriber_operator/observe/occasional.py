"""Lists the children of kinds that few resources have and that a cluster may not know, with as few calls as will do."""

from typing import Final

from transcriber_operator.clock import Clock
from transcriber_operator.cluster.kube import Kube
from transcriber_operator.cluster.resources import OCCASIONAL_CHILDREN, Resource, occasional_kinds
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.errors import ForbiddenError, KindMissingError
from transcriber_operator.observe.reminders import Reminders
from transcriber_operator.render.names import DEPLOYMENT_LABEL, NAMESPACE_LABEL, OURS

AWAY_SECONDS: Final = 60.0  # until a kind that the cluster does not have, or keeps from us, is asked for again


class OccasionalChildren:
    """Asks for a kind where the spec calls for it, and else until none is left.

    Nobody but this process makes such children, so what a spec does not call for and was not there does not come to be.
    """

    def __init__(self, kube: Kube, clock: Clock) -> None:
        self._kube = kube
        self._clock = clock
        self._without: set[tuple[str, str]] = set()  # UIDs and kinds that they have none of, and do not call for
        self._reminders = Reminders(clock)
        self._away: dict[Resource, tuple[float, bool]] = {}  # until when, and whether it is missing rather than forbidden

    async def of(self, resource: Manifest) -> list[Manifest]:
        """Return the children of these kinds, also those of an earlier resource of this name."""
        metadata = resource["metadata"]
        wanted = occasional_kinds(resource.get("spec") or {})
        found: list[Manifest] = []
        for kind in OCCASIONAL_CHILDREN:
            entry = (metadata["uid"], kind.kind)
            if kind not in wanted and entry in self._without:
                continue
            items = await self._list(kind, metadata["namespace"], metadata["name"], is_wanted=kind in wanted)
            found += items
            if items or kind in wanted or self._is_away(kind):
                self._without.discard(entry)
            else:
                self._without.add(entry)
        return found

    def has_kind(self, kind: Resource) -> bool | None:
        """Return whether the cluster knew a kind when it was last asked; None where it did not say."""
        until, is_missing = self._away.get(kind, (0.0, False))
        if self._clock.monotonic() >= until:
            return True
        return False if is_missing else None

    def forget(self, uid: str) -> None:
        """Drop a resource that is gone."""
        self._without -= {(uid, kind.kind) for kind in OCCASIONAL_CHILDREN}

    async def _list(self, kind: Resource, namespace: str, name: str, is_wanted: bool) -> list[Manifest]:
        if self._is_away(kind):
            return []
        # What lives in no namespace says in a label whose it is.
        within = "" if kind.is_namespaced else f",{NAMESPACE_LABEL}={namespace}"
        try:
            return await self._kube.select(kind, namespace, f"{OURS},{DEPLOYMENT_LABEL}={name}{within}")
        except (KindMissingError, ForbiddenError) as error:
            self._away[kind] = self._clock.monotonic() + AWAY_SECONDS, isinstance(error, KindMissingError)
            if is_wanted and isinstance(error, ForbiddenError):
                self._reminders.missing(f"{kind.kind}s are not seen, and none is removed", error)
            return []

    def _is_away(self, kind: Resource) -> bool:
        return self._clock.monotonic() < self._away.get(kind, (0.0, False))[0]
