"""Asks the serving pods how much audio waits and is being decoded: no call to the API server."""

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, Final, Self

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from transcriber_operator.clock import Clock
from transcriber_operator.decide.observed import LoadFailure, LoadSample, Manifest
from transcriber_operator.observe.answers import read_answer
from transcriber_operator.render.names import COMPONENT_LABEL, SERVING
from transcriber_operator.render.pod import EXPORTER_PORT
from transcriber_operator.settings import Address

ANSWER_SECONDS: Final = 2.0
ANSWER_BYTES: Final = 16_384
MESSAGE_CHARACTERS: Final = 200

Figure = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


class _Load(BaseModel):
    """The figures; those that a later exporter may add are left alone."""

    model_config = ConfigDict(frozen=True)

    age_seconds: Figure
    queued_audio_seconds: Figure
    in_flight_audio_seconds: Figure
    requests: Figure = 0.0
    active_slots: Figure = 0.0
    admitted_requests_total: Figure = 0.0
    admitted_audio_seconds_total: Figure = 0.0
    processed_audio_seconds_total: Figure = 0.0
    output_tokens_total: Figure = 0.0
    draft_tokens_total: Figure = 0.0
    accepted_tokens_total: Figure = 0.0
    cycles_total: Figure = 0.0


class _Answer(BaseModel):
    """What /load says; `load` is None where the replica does not know, and `reason` says why."""

    model_config = ConfigDict(frozen=True)

    load: _Load | None
    server_started_at: Figure | None = None
    draining: bool = False
    reason: str | None = None


class LoadReader:
    """Reads /load of all running serving pods at once; use as an async context manager."""

    def __init__(self, clock: Clock, answer_seconds: float = ANSWER_SECONDS, port: int = EXPORTER_PORT) -> None:
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=answer_seconds)
        self._port = port

    async def __aenter__(self) -> Self:
        # No limit on connections: pods that do not answer must not keep others from being asked.
        self._session = aiohttp.ClientSession(
            timeout=self._timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), connector=aiohttp.TCPConnector(limit=0)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def of(self, pods: Iterable[Manifest]) -> tuple[tuple[LoadSample, ...], tuple[LoadFailure, ...]]:
        """Return what each running replica says and why others do not, in the order of the pods."""
        found = await asyncio.gather(*(self._ask(pod["metadata"]["name"], pod["status"]["podIP"]) for pod in pods if _runs(pod)))
        samples = tuple(entry for entry in found if isinstance(entry, LoadSample))
        return samples, tuple(entry for entry in found if isinstance(entry, LoadFailure))

    async def _ask(self, source: str, address: str) -> LoadSample | LoadFailure:
        url = f"http://{Address(address, self._port)}/load"
        try:
            # A pod answers for itself: it cannot send us elsewhere.
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    return LoadFailure(source=source, message=f"{url} answered {response.status}")
                body = await read_answer(response, ANSWER_BYTES)
            return _told(source, _Answer.model_validate_json(body), self._clock.now())
        except TimeoutError:
            return LoadFailure(source=source, message=f"{url} did not answer within {self._timeout.total:g} s")
        except ValidationError as error:
            return LoadFailure(source=source, message=f"{url} answered nonsense: {_first_problem(error)}")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return LoadFailure(source=source, message=f"{url} did not answer: {error}"[:MESSAGE_CHARACTERS])


def _told(source: str, answer: _Answer, now: datetime) -> LoadSample | LoadFailure:
    if answer.load is None:
        return LoadFailure(source=source, message=(answer.reason or "the replica does not know its load")[:MESSAGE_CHARACTERS])
    try:
        at = now - timedelta(seconds=answer.load.age_seconds)
        started_at = datetime.fromtimestamp(answer.server_started_at, now.tzinfo) if answer.server_started_at else None
    except (OverflowError, ValueError, OSError):
        return LoadFailure(source=source, message="the replica tells a time that no calendar has")
    figures = answer.load.model_dump(exclude={"age_seconds"})
    return LoadSample(source=source, at=at, started_at=started_at, is_draining=answer.draining, **figures)


def _runs(pod: Manifest) -> bool:
    """Whether a pod serves, or has containers up on the way to it; one that is ending still has work."""
    status = pod.get("status") or {}
    is_serving = (pod["metadata"].get("labels") or {}).get(COMPONENT_LABEL) == SERVING
    return is_serving and status.get("phase") == "Running" and bool(status.get("podIP"))


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'the body'}: {problem['msg']}"[:MESSAGE_CHARACTERS]
