"""One bridged pod, from its volumes to its end: order of containers, status, deletion."""

import asyncio
import datetime
import logging
import shutil
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.rig.bridge_api import Api
from tests.rig.bridge_container import Container, Kind, Surroundings
from tests.rig.bridge_environment import Manifest
from tests.rig.bridge_process import RunningProcess, Runtime
from tests.rig.bridge_settings import Settings
from tests.rig.bridge_status import (
    HOST_ADDRESS,
    ContainerState,
    PodState,
    Waiting,
    after_bridge,
    parse_timestamp,
    pod_status,
)
from tests.rig.bridge_volumes import VolumeError, make_volumes
from tests.rig.bridge_waiting import first

OVER: Final = frozenset({"Succeeded", "Failed"})
log = logging.getLogger("pod-bridge")


class BridgedPod:
    """A pod whose containers are processes here."""

    def __init__(
        self,
        manifest: Manifest,
        address: str,
        folder: Path,
        api: Api,
        runtime: Runtime,
        session: aiohttp.ClientSession,
        settings: Settings,
    ) -> None:
        """Nothing runs before `run`. `folder` gets `pods/UID` for volumes, removed in the end, and `logs/…`, which stay."""
        metadata = manifest["metadata"]
        self.name = f"{metadata['namespace']}/{metadata['name']}"
        self.address = address
        self._manifest = manifest
        self._api = api
        self._settings = settings
        self._changed = asyncio.Event()
        self._deleted = asyncio.Event()
        self._written: dict[str, Any] = {}
        self._writing = asyncio.Lock()
        now = _now()
        own_address = {"hostIP": HOST_ADDRESS, "hostIPs": [{"ip": HOST_ADDRESS}], "podIP": address, "podIPs": [{"ip": address}]}
        self._around = Surroundings(
            {**manifest, "status": own_address},
            address,
            folder / "pods" / metadata["uid"],
            folder / "logs" / f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}",
            {},
            api,
            runtime,
            session,
            settings,
            self._changed.set,
        )
        spec = manifest["spec"]
        self._init = [self._container(container, _kind(container), now) for container in spec.get("initContainers", [])]
        self._main = [self._container(container, Kind.MAIN, now) for container in spec["containers"]]
        started_at = parse_timestamp(manifest.get("status", {}).get("startTime"), now)
        self._state = PodState(address, started_at, (), ())

    def container(self, name: str) -> Container:
        """Return a container; raises KeyError."""
        return {container.name: container for container in self._containers}[name]

    def log_file(self, container_name: str) -> Path:
        """Return the file with the output of a container's newest run; it outlives the pod."""
        return self.container(container_name).log_file

    def processes(self, container_name: str) -> list[RunningProcess]:
        """Return the processes of a container, the main one first; none while it does not run."""
        process = self.container(container_name).process
        return process.processes() if process else []

    def signal(self, container_name: str, number: int) -> None:
        """Send a signal to the main process of a container; nothing while it does not run."""
        if process := self.container(container_name).process:
            process.signal(number)

    def signal_all(self, container_name: str, number: int) -> None:
        """Send a signal to all processes of a container: SIGSTOP freezes it, SIGCONT lets it go on."""
        if process := self.container(container_name).process:
            process.signal_all(number)

    def update(self, manifest: Manifest) -> None:
        """Take note of what the API server has of the pod now."""
        self._manifest = manifest
        self._changed.set()
        if "deletionTimestamp" in manifest["metadata"]:
            grace_seconds = manifest["metadata"].get("deletionGracePeriodSeconds", 0)
            for container in self._containers:
                container.shorten(grace_seconds)
            self._deleted.set()

    async def run(self) -> None:
        """Run it to its end, and until it is deleted, and take it out of the API. Cancelled: kill all its processes at once."""
        if self._manifest.get("status", {}).get("phase") not in OVER:
            await self._live()
        await self._deleted.wait()
        await self._api.delete(self._manifest)

    @property
    def _containers(self) -> list[Container]:
        return [*self._init, *self._main]

    def _container(self, spec: Manifest, kind: Kind, now: datetime.datetime) -> Container:
        reason = "PodInitializing" if self._manifest["spec"].get("initContainers") else "ContainerCreating"
        fresh = ContainerState(spec["name"], spec["image"], kind is Kind.SIDECAR, Waiting(reason))
        status = self._manifest.get("status", {})
        reported = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        by_name = {entry["name"]: entry for entry in reported}
        return Container(spec, kind, after_bridge(fresh, by_name.get(spec["name"]), now), self._around)

    async def _live(self) -> None:
        """Run the containers to the end of all, by themselves, by a deadline or by deletion, and write what came of it."""
        self._changed.set()
        try:
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(self._write_when_changed())
                await first(self._start_in_order(), self._deleted.wait(), self._active_deadline())
                await self._stop_all()
                self._state = replace(self._state, is_over=True)
                await self._write()
                writing.cancel()
        finally:
            for container in self._containers:
                container.kill()
            await asyncio.gather(*(container.ended() for container in self._containers), return_exceptions=True)
            await asyncio.to_thread(shutil.rmtree, self._around.folder, ignore_errors=True)

    async def _start_in_order(self) -> None:
        """Start each container in its turn; done when all that matter have ended."""
        if self._is_lost():
            return
        await self._make_volumes()
        for container in self._init:
            container.launch()
            if container.kind is Kind.SIDECAR:
                await first(container.has_started.wait(), container.ended())
            else:
                await container.ended()
                if not container.state.has_succeeded:
                    return
        for container in self._main:
            container.launch()
        for container in self._main:
            await container.ended()

    def _is_lost(self) -> bool:
        """Whether an earlier bridge ran it and it may not be started again."""
        never = self._manifest["spec"].get("restartPolicy") == "Never"
        return never and any(container.state.has_run for container in self._containers)

    async def _make_volumes(self) -> None:
        while True:
            try:
                self._around.volumes.update(await make_volumes(self._around.pod, self._around.folder / "volumes", self._api))
            except VolumeError as error:
                for container in self._containers:
                    container.wait_for("ContainerCreating", str(error))
                await asyncio.sleep(self._settings.retry_seconds)
            else:
                return

    async def _active_deadline(self) -> None:
        """Wait until the pod was active for too long, for ever if it may be so."""
        seconds = self._manifest["spec"].get("activeDeadlineSeconds")
        if seconds is None:
            await asyncio.Event().wait()
        await asyncio.sleep(seconds - (_now() - self._state.started_at).total_seconds())
        message = "Pod was active on the node longer than the specified deadline"
        self._state = replace(self._state, failure=("DeadlineExceeded", message))

    async def _stop_all(self) -> None:
        """Stop what runs: all at the same time, but a sidecar's SIGTERM waits for those that started after it."""
        await asyncio.gather(*(container.stop(self._grace_seconds(), self._turn(container)) for container in self._containers))

    def _grace_seconds(self) -> float:
        metadata = self._manifest["metadata"]
        return float(metadata.get("deletionGracePeriodSeconds", self._manifest["spec"]["terminationGracePeriodSeconds"]))

    def _turn(self, container: Container) -> Callable[[], Coroutine[Any, Any, None]] | None:
        if container.kind is not Kind.SIDECAR:
            return None
        later = [*self._init[self._init.index(container) + 1 :], *self._main]
        return partial(_all_ended, later)

    async def _write_when_changed(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._write()

    async def _write(self) -> None:
        """Write the status if it differs from what was written last."""
        async with self._writing:
            init, main = (tuple(container.state for container in containers) for containers in (self._init, self._main))
            before = self._written or self._manifest.get("status", {})
            conditions = {condition["type"]: condition for condition in before.get("conditions", [])}
            status = pod_status(self._manifest, replace(self._state, init=init, main=main), conditions, _now())
            if status != self._written:
                self._written = status
                await self._api.write_status(self._manifest, status)


async def _all_ended(containers: list[Container]) -> None:
    for container in containers:
        await container.ended()


def _kind(container: Manifest) -> Kind:
    return Kind.SIDECAR if container.get("restartPolicy") == "Always" else Kind.INIT


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
