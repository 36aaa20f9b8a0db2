"""One container of a bridged pod: it is started, probed, restarted and stopped as a kubelet does it."""

import asyncio
import datetime
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.rig.bridge_api import Api
from tests.rig.bridge_environment import ConfigError, Manifest, Mount, arguments, references, resolved, rewrite, variables
from tests.rig.bridge_probes import Target, act, check_actions, ports_of, verdicts
from tests.rig.bridge_process import Command, Process, Runtime, StartError
from tests.rig.bridge_settings import Settings
from tests.rig.bridge_status import LOG_TAIL_BYTES, ContainerState, Running, Terminated, Waiting, restarts, termination_message
from tests.rig.bridge_volumes import mounts_of
from tests.rig.bridge_waiting import Deadline, first

MINIMUM_GRACE_SECONDS: Final = 2.0  # a kubelet gives a container so much after SIGTERM, however little is left of the grace
START_ERROR_EXIT_CODE: Final = 128
MESSAGE_PATH: Final = "/dev/termination-log"
# As in an image of ours, the python3 on PATH is the one that has all packages.
PATH: Final = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
log = logging.getLogger("pod-bridge")


class Kind(Enum):
    """What a container is in its pod."""

    INIT = "init"
    SIDECAR = "sidecar"
    MAIN = "main"


@dataclass(frozen=True)
class Surroundings:
    """What the containers of one pod share; `pod` carries its address, `volumes` are filled before the first container starts."""

    pod: Manifest
    address: str
    folder: Path
    log_folder: Path
    volumes: dict[str, Path]
    api: Api
    runtime: Runtime
    session: aiohttp.ClientSession
    settings: Settings
    has_changed: Callable[[], None]


class Container:
    """A container; `state` is what its status tells."""

    def __init__(self, spec: Manifest, kind: Kind, state: ContainerState, around: Surroundings) -> None:
        self.spec = spec
        self.kind = kind
        self.state = state
        self.has_started = asyncio.Event()  # for the first time: what gates the next container
        self._around = around
        self._label = f"{around.pod['metadata']['namespace']}/{around.pod['metadata']['name']} {spec['name']}"
        pod_policy = around.pod["spec"].get("restartPolicy", "Always")
        self._policy = {
            Kind.SIDECAR: "Always",
            Kind.INIT: "Never" if pod_policy == "Never" else "OnFailure",
            Kind.MAIN: pod_policy,
        }[kind]
        self._must_stop = asyncio.Event()
        self._run: asyncio.Task[None] | None = None
        self._process: Process | None = None
        self._command: Command | None = None
        self._mounts: list[Mount] = []
        self._health: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._grace = Deadline(0)

    @property
    def name(self) -> str:
        """The container's name."""
        return str(self.spec["name"])

    @property
    def process(self) -> Process | None:
        """Its processes now, None while none run."""
        return self._process

    @property
    def log_file(self) -> Path:
        """The output of its newest run."""
        return self._around.log_folder / self.name / f"{self.state.restarts}.log"

    def launch(self) -> None:
        """Let it run, again and again as the restart policy says."""
        self._run = asyncio.create_task(self._run_and_restart())

    async def ended(self) -> None:
        """Wait until it will not run any more; returns at once if it was never launched."""
        if self._run:
            await asyncio.wait([self._run])
            if not self._run.cancelled():
                self._run.result()

    async def stop(self, grace_seconds: float, turn: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """End it for good: preStop, wait for its `turn`, SIGTERM, and SIGKILL at the end of the grace. Again: shorten that."""
        self._must_stop.set()
        if self._health:
            self._health.cancel()
        if self._process:
            await self._end(self._process, grace_seconds, turn)
        await self.ended()

    def shorten(self, grace_seconds: float) -> None:
        """Leave it less grace if it is being stopped; none ends it at once, and for good."""
        if grace_seconds <= 0:
            self.kill()
        self._grace.shorten(grace_seconds)

    def kill(self) -> None:
        """End it for good, at once."""
        self._must_stop.set()
        if self._process:
            self._process.kill()
        elif self._run:
            self._run.cancel()  # it may wait for the API server

    def wait_for(self, reason: str, message: str = "") -> None:
        """Say why it does not run yet."""
        last = self.state.state if isinstance(self.state.state, Terminated) else self.state.last
        self._set(state=Waiting(reason, message), last=last)

    async def _run_and_restart(self) -> None:
        settings = self._around.settings
        ends_in_a_row = 0
        while not self._must_stop.is_set():
            try:
                command = await self._prepare()
            except ConfigError as error:
                self.wait_for("CreateContainerConfigError", str(error))
                await self._rest(settings.retry_seconds)
                continue
            ended = await self._run_once(command)
            self._set(state=ended, has_started=False, is_ready=self.kind is Kind.INIT and ended.exit_code == 0)
            if self._must_stop.is_set() or not restarts(self._policy, ended.exit_code):
                return
            has_run_long = (ended.finished_at - ended.started_at).total_seconds() >= settings.backoff_reset_seconds
            ends_in_a_row = 1 if has_run_long else ends_in_a_row + 1
            if seconds := settings.backoff_seconds(ends_in_a_row):
                self.wait_for("CrashLoopBackOff", f"back-off {seconds:g} s restarting failed container {self.name}")
                await self._rest(seconds)

    async def _rest(self, seconds: float) -> None:
        await first(asyncio.sleep(seconds), self._must_stop.wait())

    async def _prepare(self) -> Command:
        """Return what to run; raises ConfigError."""
        around = self._around
        check_actions(self.spec)
        namespace = around.pod["metadata"]["namespace"]
        objects = {(kind, name): await around.api.get(kind, namespace, name) for kind, name in references(self.spec)}
        own = variables(around.pod, self.spec, objects)
        folder = around.folder / "containers" / self.name
        places = {"HOME": "home", "TMPDIR": "tmp", "XDG_CACHE_HOME": "cache"}
        for place in places.values():
            (folder / place).mkdir(parents=True, exist_ok=True)
        self._message_file = folder / "termination-log"
        message = Mount(self.spec.get("terminationMessagePath", MESSAGE_PATH), self._message_file)
        mounts = self._mounts = [*mounts_of(self.spec, around.volumes, own), message]
        environment = {
            "PATH": PATH,
            "HOSTNAME": around.pod["metadata"]["name"],
            "PYTHONUNBUFFERED": "1",
            **{name: str(folder / place) for name, place in places.items()},
            **around.settings.environment,
            **{name: rewrite(value, mounts) for name, value in own.items()},
        }
        argv = arguments(self.spec, {**around.settings.environment, **own}, mounts, around.settings.programs, around.address)
        return Command(around.settings.replaced(around.pod, argv), environment, self._working_folder(mounts, folder / "home"))

    def _working_folder(self, mounts: Sequence[Mount], default: Path) -> Path:
        return Path(rewrite(self.spec["workingDir"], mounts)) if self.spec.get("workingDir") else default

    async def _run_once(self, command: Command) -> Terminated:
        """Start it, probe it and wait for its end."""
        run = self.state.restarts + 1 if self.state.has_run else 0
        last = self.state.state if isinstance(self.state.state, Terminated) else self.state.last
        container_id = f"process://{self._around.pod['metadata']['uid']}/{self.name}/{run}"
        self.state = replace(self.state, restarts=run, last=last, container_id=container_id)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self._message_file.write_bytes(b"")
        started_at = _now()
        try:
            self._command, self._process = command, await self._around.runtime.start(command, self.log_file)
        except StartError as error:
            log.warning("%s: %s", self._label, error)
            return Terminated(START_ERROR_EXIT_CODE, "StartError", str(error), started_at, _now(), container_id)
        if self._must_stop.is_set():
            self._process.kill()
        self._set(state=Running(started_at))
        exit_code = await self._probe_until_end(self._process)
        log.info("%s: exit code %d", self._label, exit_code)
        message = termination_message(
            self.spec.get("terminationMessagePolicy", "File"), exit_code, self._message_file.read_bytes(), _end_of(self.log_file)
        )
        return Terminated(exit_code, "Error" if exit_code else "Completed", message, started_at, _now(), container_id)

    async def _probe_until_end(self, process: Process) -> int:
        is_up = asyncio.Event()
        self._health = asyncio.create_task(self._watch_health(process, is_up))
        readiness = asyncio.create_task(self._watch_readiness(is_up))
        try:
            return await process.wait()
        finally:
            probing = [self._health, readiness]
            self._process = self._health = None
            for task in probing:
                task.cancel()
            results = await asyncio.gather(*probing, *([self._ending] if self._ending else []), return_exceptions=True)
            self._ending = None
            for error in results:
                if isinstance(error, Exception):
                    raise error

    async def _watch_health(self, process: Process, is_up: asyncio.Event) -> None:
        """Startup, then liveness: what fails ends the process."""
        if "startupProbe" in self.spec and not await self._holds("startupProbe", process, until_passed=True):
            return
        is_up.set()
        self.has_started.set()
        self._set(has_started=True, is_ready="readinessProbe" not in self.spec)
        if "livenessProbe" in self.spec:
            await self._holds("livenessProbe", process, until_passed=False)

    async def _holds(self, name: str, process: Process, *, until_passed: bool) -> bool:
        """Ask a probe until it has passed, if that is all, or until it has failed, which ends the process; returns which."""
        async for has_passed, failure in verdicts(self.spec[name], self._target()):
            if has_passed and until_passed:
                return True
            if not has_passed:
                log.warning("%s: %s failed: %s", self._label, name, failure)
                pod_grace = self._around.pod["spec"]["terminationGracePeriodSeconds"]
                await self._end(process, self.spec[name].get("terminationGracePeriodSeconds", pod_grace))
                break
        return False

    async def _watch_readiness(self, is_up: asyncio.Event) -> None:
        await is_up.wait()
        if "readinessProbe" in self.spec:
            async for has_passed, failure in verdicts(self.spec["readinessProbe"], self._target()):
                if has_passed != self.state.is_ready:
                    log.info("%s: %s", self._label, "ready" if has_passed else f"not ready: {failure}")
                    self._set(is_ready=has_passed)

    async def _end(
        self, process: Process, grace_seconds: float, turn: Callable[[], Coroutine[Any, Any, None]] | None = None
    ) -> None:
        """Have the process end, once: who asks again can only shorten the grace."""
        if self._ending is None:
            self._grace = Deadline(grace_seconds)
            self._ending = asyncio.create_task(self._end_in_order(process, self._grace, turn))
        else:
            self._grace.shorten(grace_seconds)
        await asyncio.shield(self._ending)

    async def _end_in_order(self, process: Process, grace: Deadline, turn: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
        hook = self.spec.get("lifecycle", {}).get("preStop")
        if hook and grace.seconds_left > 0:
            await first(self._do_hook(hook), grace.reached(), process.wait())
        if turn:
            await first(turn(), grace.reached(), process.wait())
        minimum = Deadline(MINIMUM_GRACE_SECONDS)
        process.signal(signal.SIGTERM)
        await first(_both(grace, minimum), process.wait())
        if process.is_running:
            log.warning("%s: SIGKILL at the end of its grace", self._label)
            process.signal_all(signal.SIGKILL)
        await process.wait()

    async def _do_hook(self, hook: Manifest) -> None:
        failure = await act(hook, self._target())
        if failure:
            log.warning("%s: preStop: %s", self._label, failure)

    def _target(self) -> Target:
        return Target(self._around.address, ports_of(self.spec), self._around.session, self._execute)

    async def _execute(self, argv: Sequence[str]) -> int:
        """Run a command beside the container, with its environment; returns the exit code."""
        assert self._command is not None
        words = resolved([rewrite(word, self._mounts) for word in argv], self._around.settings.programs)
        command = replace(self._command, argv=words)
        try:
            process = await self._around.runtime.start(command, self._around.log_folder / self.name / "exec.log")
        except StartError as error:
            log.warning("%s: exec: %s", self._label, error)
            return START_ERROR_EXIT_CODE
        try:
            return await process.wait()
        finally:
            process.kill()

    def _set(self, **changes: Any) -> None:
        state = replace(self.state, **changes)
        if state != self.state:
            self.state = state
            self._around.has_changed()


async def _both(*deadlines: Deadline) -> None:
    for deadline in deadlines:
        await deadline.reached()


def _end_of(file: Path) -> bytes:
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - LOG_TAIL_BYTES))
        return opened.read()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
