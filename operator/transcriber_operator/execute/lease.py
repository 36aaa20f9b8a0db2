"""The Lease that makes one operator write and the others wait: taken, renewed, checked before every write, given back."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from transcriber_operator.clock import Clock
from transcriber_operator.cluster.kube import Kube
from transcriber_operator.cluster.resources import LEASE
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.errors import ConflictError, LeaseLostError, NotFoundError, OperatorError

RELEASED_SECONDS: Final = 1  # a duration of 0 is refused

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeaseTimes:
    """All in seconds; `duration` is what others wait, `valid` how long we trust a renewal of ours, and the gap is the margin."""

    duration: float = 15.0
    valid: float = 12.0
    renew: float = 5.0
    answer: float = 3.0  # so that one renewal may hang and the next one still save the hold
    retry: float = 1.0
    watch: float = 0.5


@dataclass(frozen=True)
class _Seen:
    """Another's hold on the Lease, and when this very state of it was first seen: nobody's clock is compared with ours."""

    resource_version: str
    holder: str
    duration_seconds: float
    since: float


class Lease:
    """A hold on one Lease object, by an identity that is this process's alone."""

    def __init__(self, kube: Kube, clock: Clock, namespace: str, name: str, identity: str, times: LeaseTimes | None = None) -> None:
        self.identity = identity
        self.namespace = namespace
        self.name = name
        self._kube = kube
        self._clock = clock
        self._times = times or LeaseTimes()
        self._seen: _Seen | None = None
        self._live: Manifest | None = None  # as we last wrote it
        self._valid_until = float("-inf")
        self._is_released = False
        self._complaint = ""

    @property
    def is_held(self) -> bool:
        """Whether this process may write, by its own clock."""
        return self._clock.monotonic() < self._valid_until

    def require(self) -> None:
        """Raise LeaseLostError unless the Lease is held: to be called right before each write."""
        if not self.is_held:
            raise LeaseLostError(f"Lease {self.namespace}/{self.name} is not held by {self.identity}; nothing may be written")

    async def acquire(self) -> None:
        """Wait until the Lease is ours; errors of the API server are logged and waited out."""
        while not await self._attempt():
            await self._clock.sleep(self._times.retry)
        logger.info("Lease %s/%s taken by %s", self.namespace, self.name, self.identity)

    async def keep(self) -> None:
        """Renew until the Lease is lost; returns then."""
        while True:
            await self._clock.sleep(self._times.renew)
            while not await self._attempt():
                if not self.is_held:
                    return
                await self._clock.sleep(self._times.retry)

    async def release(self) -> None:
        """Give the Lease back, so that the next one need not wait; a failure only costs that wait."""
        self._is_released = True
        if not self.is_held or self._live is None:
            return
        self._valid_until = float("-inf")
        with suppress(OperatorError):
            await self._kube.replace(self._manifest(self._live, "", RELEASED_SECONDS))
            logger.info("Lease %s/%s given back", self.namespace, self.name)

    def guard(self, lost: Callable[[], None]) -> None:
        """Call `lost` as soon as the hold has run out, also where renewing hangs or the process was stopped for a while.

        A callback of the event loop and no task: after a stop it runs before any task reads what has arrived meanwhile, so that
        nobody, Kopf included, acts on it.
        """
        if self.is_held:
            asyncio.get_running_loop().call_later(self._times.watch, self.guard, lost)
        elif not self._is_released:
            lost()

    async def _attempt(self) -> bool:
        """Take or renew; whether it is ours now."""
        asked_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._times.answer):
                written = await self._write(asked_at)
        except ConflictError:  # someone wrote in between: look again
            self._live = None
            return False
        except (OperatorError, TimeoutError) as error:
            self._complain(str(error) or f"no answer within {self._times.answer:.0f} s")
            return False
        self._complaint = ""
        if written is None:
            self._valid_until = float("-inf")
            return False
        self._live = written
        self._valid_until = asked_at + self._times.valid
        return True

    def _complain(self, text: str) -> None:
        """Log a failure once and not every second that it lasts."""
        if text != self._complaint:
            logger.warning("Lease %s/%s could not be taken or renewed: %s", self.namespace, self.name, text)
        self._complaint = text

    async def _write(self, now: float) -> Manifest | None:
        """Write our hold; None if another one's is good."""
        if self._live is not None and self.is_held:
            return await self._kube.replace(self._manifest(self._live, self.identity))
        try:
            live = await self._kube.get(LEASE, self.namespace, self.name)
        except NotFoundError:
            return await self._kube.create(self._manifest(None, self.identity))
        return None if self._is_anothers(live, now) else await self._kube.replace(self._manifest(live, self.identity))

    def _is_anothers(self, live: Manifest, now: float) -> bool:
        """Whether another holds it: it has not stood still for as long as it is good for, by our clock."""
        spec = live.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        version = live["metadata"]["resourceVersion"]
        if self._seen is None or self._seen.resource_version != version:
            if holder and (self._seen is None or self._seen.holder != holder):
                logger.info("Lease %s/%s is held by %s; waiting", self.namespace, self.name, holder)
            self._seen = _Seen(version, holder, float(spec.get("leaseDurationSeconds") or self._times.duration), now)
        return bool(holder) and holder != self.identity and now < self._seen.since + self._seen.duration_seconds

    def _manifest(self, live: Manifest | None, holder: str, duration_seconds: float | None = None) -> Manifest:
        metadata: dict[str, Any] = {"name": self.name, "namespace": self.namespace}
        before: dict[str, Any] = {}
        if live is not None:
            metadata = {**live["metadata"], "managedFields": None}
            before = live.get("spec") or {}
        now = self._clock.now().isoformat(timespec="microseconds").replace("+00:00", "Z")
        is_new = before.get("holderIdentity") != holder
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": round(duration_seconds or self._times.duration),
            "acquireTime": now if is_new else before.get("acquireTime", now),
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (1 if is_new and live is not None and holder else 0),
        }
        return {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}
