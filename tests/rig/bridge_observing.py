"""What tests see of the processes of the bridge, from outside."""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

from tests.rig.pod_bridge import PodBridge

OBSERVE_SECONDS = 30
POLL_SECONDS = 0.02


async def ends_of(pids: Iterable[int]) -> None:
    """Wait until processes, of whichever parent, have ended."""
    loop = asyncio.get_running_loop()
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ended = asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            await asyncio.wait_for(ended.wait(), OBSERVE_SECONDS)
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)


async def lines(file: Path, count: int) -> list[str]:
    """Wait for so many lines of a process, which announces nothing."""
    async with asyncio.timeout(OBSERVE_SECONDS):
        while not file.exists() or len(file.read_text().splitlines()) < count:
            await asyncio.sleep(POLL_SECONDS)
    return file.read_text().splitlines()


async def pids_of(bridge: PodBridge, namespace: str, name: str, count: int, container_name: str = "main") -> list[int]:
    """Return the process ids of a container once there are so many."""
    async with asyncio.timeout(OBSERVE_SECONDS):
        while len(found := bridge.pod(namespace, name).processes(container_name)) < count:
            await asyncio.sleep(POLL_SECONDS)
    return [process.pid for process in found]
