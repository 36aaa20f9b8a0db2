"""Asks the pod of a running build how far it is."""

import logging
from collections.abc import Iterable
from typing import Final, Self

import aiohttp
from pydantic import ValidationError

from transcriber_operator.decide.observed import BuildProgress, Manifest
from transcriber_operator.render.names import BUILD, COMPONENT_LABEL

PORT: Final = 8003
ANSWER_SECONDS: Final = 2.0
ANSWER_BYTES: Final = 65_536

logger = logging.getLogger(__name__)


class ProgressReader:
    """Reads /progress of build pods; use as an async context manager."""

    def __init__(self, port: int = PORT, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._port = port
        self._timeout = aiohttp.ClientTimeout(total=answer_seconds)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=self._timeout, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def of_build(self, pods: Iterable[Manifest]) -> BuildProgress | None:
        """Return the progress of the youngest build pod that runs, None if there is none or it does not tell."""
        running = [pod for pod in pods if _is_running_build(pod)]
        if not running:
            return None
        pod = max(running, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
        address = pod["status"]["podIP"]
        url = f"http://[{address}]:{self._port}/progress" if ":" in address else f"http://{address}:{self._port}/progress"
        try:
            # A pod answers for itself: it cannot send us elsewhere.
            async with self._session.get(url, allow_redirects=False) as response:
                body = await response.content.read(ANSWER_BYTES)
                return BuildProgress.model_validate_json(body) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValidationError) as error:
            logger.debug("No progress from %s: %r", url, error)
            return None


def _is_running_build(pod: Manifest) -> bool:
    status = pod.get("status") or {}
    is_build = (pod["metadata"].get("labels") or {}).get(COMPONENT_LABEL) == BUILD
    return is_build and status.get("phase") == "Running" and bool(status.get("podIP"))
