"""Asks the pod of a running build how far it is."""

import logging
from collections.abc import Iterable
from typing import Final, Self

import aiohttp

from transcriber_operator.decide.observed import BuildProgress, Manifest
from transcriber_operator.decide.pods import container_status
from transcriber_operator.observe.answers import read_answer
from transcriber_operator.render.build import CONTAINER, PROGRESS_PORT_NAME
from transcriber_operator.settings import Address

ANSWER_SECONDS: Final = 2.0
ANSWER_BYTES: Final = 65_536

logger = logging.getLogger(__name__)


class ProgressReader:
    """Reads /progress of builds, in pods of their own or before a replica serves; use as an async context manager."""

    def __init__(self, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._timeout = aiohttp.ClientTimeout(total=answer_seconds)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=self._timeout, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def of_build(self, pods: Iterable[Manifest]) -> BuildProgress | None:
        """Return the progress of the youngest pod in which a build runs, None if there is none or it does not tell."""
        youngest_first = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)
        url = next((url for pod in youngest_first if (url := _progress_url(pod))), None)
        if url is None:
            return None
        try:
            # A pod answers for itself: it cannot send us elsewhere.
            async with self._session.get(url, allow_redirects=False) as response:
                body = await read_answer(response, ANSWER_BYTES)
                return BuildProgress.model_validate_json(body) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            logger.debug("No progress from %s: %r", url, error)
            return None


def _progress_url(pod: Manifest) -> str | None:
    """Where the build of a pod tells how far it is; None where none runs."""
    address = (pod.get("status") or {}).get("podIP")
    status = container_status(pod, CONTAINER)
    if not address or not status or "running" not in (status.get("state") or {}):
        return None
    containers = [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]
    ports = [port for container in containers if container["name"] == CONTAINER for port in container.get("ports") or ()]
    number = next((port["containerPort"] for port in ports if port.get("name") == PROGRESS_PORT_NAME), None)
    return f"http://{Address(address, number)}/progress" if number else None
