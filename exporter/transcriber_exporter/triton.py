"""Talks to the Triton of this pod: the canary's call over gRPC, and a look at its metrics."""

import asyncio
import json
import time
from typing import Final

import aiohttp
import grpc.aio

from transcriber_exporter import inference
from transcriber_exporter.canary import MODEL, OPTIONS, Outcome, Result, clip, judge
from transcriber_exporter.endpoint import Endpoint
from transcriber_exporter.load import Scrape, parse

CONNECT_SECONDS: Final = 5.0
SCRAPE_TIMEOUT: Final = aiohttp.ClientTimeout(total=5.0)
# Once more where the connection went just as the call was sent: Triton has every connection made anew now and then.
RETRY: Final = {
    "maxAttempts": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
    "initialBackoff": "0.1s",
    "maxBackoff": "0.1s",
    "backoffMultiplier": 1,
}
# A connection of its own per canary: what a new client would meet, with no state of an earlier Triton.
CHANNEL_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": RETRY}]})),
)
QUEUE_IS_FULL: Final = "[RESOURCE_EXHAUSTED]"  # how the models end the message of a refusal that a retry may cure


class TritonGoneError(Exception):
    """Nobody listens at Triton's metrics port: it has not started yet, or has ended."""


class ScrapeError(Exception):
    """Triton did not say what it holds; the message says why."""


class Triton:
    """Triton at a gRPC endpoint and a URL of metrics."""

    def __init__(self, endpoint: Endpoint, metrics_url: str, session: aiohttp.ClientSession) -> None:
        self._endpoint = endpoint
        self._metrics_url = metrics_url
        self._session = session
        self._request = inference.encode_request(MODEL, clip(), OPTIONS)

    async def run_canary(self, deadline_seconds: float) -> Result:
        """Transcribe the bundled clip and judge the answer; whatever happens is a result."""
        began = time.monotonic()
        async with grpc.aio.insecure_channel(str(self._endpoint), options=CHANNEL_OPTIONS) as channel:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await channel.channel_ready()
            except TimeoutError:
                return Result(Outcome.UNREACHABLE, f"Triton does not listen on {self._endpoint}", time.monotonic() - began)
            infer: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(inference.METHOD)
            try:
                response = await infer(self._request, timeout=deadline_seconds)
            except grpc.aio.AioRpcError as error:
                return _unanswered(error, time.monotonic() - began)
        seconds = time.monotonic() - began
        try:
            return judge(inference.decode_text(response), seconds)
        except ValueError as error:
            return Result(Outcome.FAILED, f"the canary failed: {error}", seconds)

    async def scrape(self) -> Scrape:
        """Read Triton's metrics; raises TritonGoneError and ScrapeError."""
        try:
            async with self._session.get(self._metrics_url, timeout=SCRAPE_TIMEOUT, raise_for_status=True) as answer:
                return parse(await answer.text())
        except aiohttp.ClientConnectorError as error:
            raise TritonGoneError(f"Triton does not listen on {self._metrics_url}") from error
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ScrapeError(f"{self._metrics_url}: {error or type(error).__name__}") from error


def _unanswered(error: grpc.aio.AioRpcError, seconds: float) -> Result:
    details = error.details() or ""
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Result(Outcome.TIMED_OUT, f"had no answer after {seconds:.0f} s", seconds)
    if details.endswith(QUEUE_IS_FULL):
        return Result(Outcome.REFUSED, f"was refused: {details}", seconds)
    return Result(Outcome.FAILED, f"the canary failed: {error.code().name}: {details}", seconds)
