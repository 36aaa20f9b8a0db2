"""Probes and hooks of a container: httpGet, tcpSocket, exec and sleep, and what a row of results of a probe means."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from tests.rig.bridge_environment import ConfigError, Manifest

PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")
PROBE_ACTIONS: Final = frozenset({"httpGet", "tcpSocket", "exec"})
HOOK_ACTIONS: Final = frozenset({"httpGet", "exec", "sleep"})
Execute = Callable[[Sequence[str]], Awaitable[int]]


@dataclass(frozen=True)
class Timing:
    """When a probe is asked, and how many results in a row count."""

    initial_delay_seconds: float = 0
    period_seconds: float = 10
    timeout_seconds: float = 1
    success_threshold: int = 1
    failure_threshold: int = 3

    @classmethod
    def of(cls, probe: Manifest) -> "Timing":
        """Read it from a manifest as the API server has completed it."""
        return cls(
            probe.get("initialDelaySeconds", 0),
            probe["periodSeconds"],
            probe["timeoutSeconds"],
            probe["successThreshold"],
            probe["failureThreshold"],
        )


@dataclass(frozen=True)
class Tally:
    """Equal results in a row."""

    has_passed: bool | None = None
    count: int = 0

    def add(self, *, has_passed: bool) -> "Tally":
        """Return it with one more result."""
        return Tally(has_passed, self.count + 1 if has_passed == self.has_passed else 1)

    def verdict(self, timing: Timing) -> bool | None:
        """Return what the results mean, None if there are too few."""
        threshold = timing.success_threshold if self.has_passed else timing.failure_threshold
        return self.has_passed if self.count >= threshold else None


@dataclass(frozen=True)
class Target:
    """A running container, as probes and hooks reach it."""

    address: str
    ports: Mapping[str, int]
    session: aiohttp.ClientSession
    execute: Execute


def ports_of(container: Manifest) -> dict[str, int]:
    """Return a container's ports by name."""
    return {port["name"]: port["containerPort"] for port in container.get("ports", []) if "name" in port}


def check_actions(container: Manifest) -> None:
    """Raise ConfigError that names the first probe or hook which the bridge cannot do."""
    lifecycle = container.get("lifecycle", {})
    if "postStart" in lifecycle:
        raise ConfigError("lifecycle.postStart: the bridge knows preStop only")
    ports = ports_of(container)
    for name in PROBES:
        _check(name, container.get(name), PROBE_ACTIONS, ports)
    _check("lifecycle.preStop", lifecycle.get("preStop"), HOOK_ACTIONS, ports)


async def verdicts(probe: Manifest, target: Target) -> AsyncIterator[tuple[bool, str]]:
    """Ask again and again; yield whether it holds, and why not, each time that enough results in a row say so."""
    timing = Timing.of(probe)
    tally = Tally()
    loop = asyncio.get_running_loop()
    next_at = loop.time() + timing.initial_delay_seconds
    while True:
        await asyncio.sleep(next_at - loop.time())
        next_at = max(next_at + timing.period_seconds, loop.time())
        failure = await ask(probe, target, timing.timeout_seconds)
        tally = tally.add(has_passed=failure is None)
        verdict = tally.verdict(timing)
        if verdict is not None:
            yield verdict, failure or ""


async def ask(probe: Manifest, target: Target, timeout_seconds: float) -> str | None:
    """Ask a probe once; returns why it failed, None if it did not."""
    try:
        async with asyncio.timeout(timeout_seconds):
            return await act(probe, target)
    except TimeoutError:
        return f"no answer within {timeout_seconds:g} s"


async def act(action: Manifest, target: Target) -> str | None:
    """Do what a probe or hook says; returns why it failed, None if it did not."""
    match action:
        case {"httpGet": request}:
            return await _get(request, target)
        case {"tcpSocket": socket}:
            return await _connect(socket, target)
        case {"exec": {"command": argv}}:
            exit_code = await target.execute(argv)
            return f"exit code {exit_code}" if exit_code else None
        case {"sleep": {"seconds": seconds}}:
            await asyncio.sleep(seconds)
    return None


async def _get(request: Manifest, target: Target) -> str | None:
    scheme, host, port = request.get("scheme", "HTTP").lower(), request.get("host") or target.address, _port(request, target)
    headers = {header["name"]: header["value"] for header in request.get("httpHeaders", [])}
    unverified: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if scheme == "https" else True
    if scheme == "https":
        unverified.check_hostname = False
        unverified.verify_mode = ssl.CERT_NONE
    url = f"{scheme}://{host}:{port}/{request.get('path', '/').removeprefix('/')}"
    try:
        async with target.session.get(url, headers=headers, ssl=unverified, allow_redirects=False) as response:
            await response.read()
            return None if response.status < HTTPStatus.BAD_REQUEST else f"{url}: status {response.status}"
    except (aiohttp.ClientError, OSError) as error:
        return f"{url}: {error}"


async def _connect(socket: Manifest, target: Target) -> str | None:
    host, port = socket.get("host") or target.address, _port(socket, target)
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return f"{host}:{port}: {error.strerror}"
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return None


def _port(action: Manifest, target: Target) -> int:
    port = action["port"]
    return port if isinstance(port, int) else target.ports[port]


def _check(name: str, action: Manifest | None, known: frozenset[str], ports: Mapping[str, int]) -> None:
    if action is None:
        return
    does = [kind for kind in action if kind in known]
    if not does:
        given = ", ".join(key for key, value in action.items() if isinstance(value, Mapping))
        raise ConfigError(f"{name}: the bridge knows {', '.join(sorted(known))}, not {given}")
    port = action[does[0]].get("port", 0)
    if isinstance(port, str) and port not in ports:
        raise ConfigError(f"{name}: the container has no port of the name {port}")
