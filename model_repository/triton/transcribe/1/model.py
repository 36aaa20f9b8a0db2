"""Triton model `transcribe`: a whole file or recording to its transcript.

`execute` checks a request and returns; a worker decodes the audio with bounded memory, cuts it on speech, calls the ensemble
`whisper` for each window, and answers when all are stitched. No torch in this process.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import triton_python_backend_utils as pb_utils

from transcriber_engine.audio import SAMPLE_RATE_HZ, AudioLimits, DecodedAudio, Samples, check_pcm, decode
from transcriber_engine.errors import Refusal, RequestError
from transcriber_engine.longform import Window
from transcriber_engine.result import WindowResult
from transcriber_engine.settings import Options
from transcriber_engine.transcription import RequestCancelledError, transcribe, window_cutter
from transcriber_triton import protocol

REQUESTS_AT_ONCE = 64
WINDOW_CALLS_AT_ONCE = 24  # Triton's Python backend serves at most 32 such calls per model at once
REFUSALS = tuple(Refusal)


class TritonPythonModel:
    """Adapter: admission, workers, and the gauges of audio seconds."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the workers and the metrics."""
        self.settings = protocol.settings(args)
        self.limits = AudioLimits(self.settings.max_audio_bytes, self.settings.max_audio_seconds)
        self.requests = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="request")
        self.windows = ThreadPoolExecutor(WINDOW_CALLS_AT_ONCE, thread_name_prefix="window")
        self.ledger = AudioLedger(args["model_name"])

    def execute(self, requests: list[Any]) -> list[None]:
        """Take each request in, or refuse it; the answers come later."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                options = protocol.options(request)
                audio, pcm = protocol.one_string(request, "AUDIO"), protocol.array(request, "PCM")
                if (audio is None) == (pcm is None):
                    raise RequestError("AUDIO", "send exactly one of AUDIO (bytes of a file) and PCM (float32, mono, 16 kHz)")
                source = check_pcm(pcm, self.limits) if pcm is not None else decode(audio, self.limits)
                if self.ledger.held_seconds() >= self.settings.max_queued_audio_seconds:
                    most = f"{self.settings.max_queued_audio_seconds} s (spec.runtime.maxQueuedAudioSeconds)"
                    raise RequestError("AUDIO", f"{most} of audio wait already; try again later", Refusal.RESOURCE_EXHAUSTED)
            except Exception as error:
                protocol.answer(sender, protocol.error_response(error))
                continue
            self.requests.submit(self._serve, source, options, sender)
        return [None] * len(requests)

    def finalize(self) -> None:
        """Let the requests at hand finish."""
        self.requests.shutdown(wait=True)
        self.windows.shutdown(wait=True)

    def _serve(self, source: Samples | DecodedAudio, options: Options, sender: Any) -> None:
        account = Account(self.ledger)
        try:
            blocks = source.blocks() if isinstance(source, DecodedAudio) else pcm_blocks(source)
            transcript = transcribe(
                blocks,
                window_cutter(self.settings, options),
                lambda window: self._decode_window(window, options),
                max_in_flight=max(self.settings.slots // 2, 1),
                is_cancelled=sender.is_cancelled,
                on_read=account.read,
            )
            if isinstance(source, DecodedAudio):
                transcript = transcript.model_copy(update={"warnings": tuple(source.warnings)})
            reply = protocol.response(RESULT=protocol.string(transcript.model_dump_json()))
        except RequestCancelledError:
            reply = pb_utils.InferenceResponse(
                error=pb_utils.TritonError("cancelled by the caller", pb_utils.TritonError.CANCELLED)
            )
        except Exception as error:
            reply = protocol.error_response(error)
        finally:
            account.close()
        protocol.answer(sender, reply)

    def _decode_window(self, window: Window, options: Options) -> Future[WindowResult]:
        return self.windows.submit(call_whisper, window, options)


def call_whisper(window: Window, options: Options) -> WindowResult:
    """Call the ensemble for one window; raises RequestError for what it refuses."""
    request = pb_utils.InferenceRequest(
        model_name="whisper",
        requested_output_names=["RESULT"],
        inputs=[
            pb_utils.Tensor("PCM", window.samples),
            pb_utils.Tensor("OPTIONS", protocol.string(options.model_dump_json(exclude_none=True))),
        ],
    )
    response = request.exec()
    if response.has_error():
        raise refused(response.error().message())
    [output] = [tensor for tensor in response.output_tensors() if tensor.name() == "RESULT"]
    return WindowResult.model_validate_json(output.as_numpy()[0])


def refused(message: str) -> Exception:
    """Turn the ensemble's error back into the refusal it was."""
    for refusal in REFUSALS:
        text, found, _ = message.rpartition(f" [{refusal}]")
        if found:
            field, _, reason = text.removeprefix("in ensemble 'whisper', ").partition(": ")
            return RequestError(field, reason, refusal)
    return RuntimeError(message)


def pcm_blocks(samples: Samples) -> Iterator[Samples]:
    """Cut samples into blocks of a second, as a decoder gives them."""
    for start in range(0, samples.shape[0], SAMPLE_RATE_HZ):
        yield samples[start : start + SAMPLE_RATE_HZ]


class AudioLedger:
    """Seconds of audio read and not yet decoded, and all that was decoded, as Triton metrics."""

    def __init__(self, model: str) -> None:
        self._lock = threading.Lock()
        self._held = 0.0
        self._gauge_family = pb_utils.MetricFamily(
            name="transcriber_held_audio_seconds",
            description="Seconds of audio taken in and not yet answered",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        self._counter_family = pb_utils.MetricFamily(
            name="transcriber_finished_audio_seconds_total",
            description="Seconds of audio answered",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        self._gauge = self._gauge_family.Metric(labels={"model": model})
        self._counter = self._counter_family.Metric(labels={"model": model})

    def held_seconds(self) -> float:
        """Return the seconds taken in and not yet answered."""
        with self._lock:
            return self._held

    def change(self, held: float, finished: float = 0.0) -> None:
        """Book a change."""
        with self._lock:
            self._held += held
            self._gauge.set(self._held)
            if finished:
                self._counter.increment(finished)


class Account:
    """What one request holds in the ledger."""

    def __init__(self, ledger: AudioLedger) -> None:
        self._ledger = ledger
        self._seconds = 0.0

    def read(self, seconds: float) -> None:
        """Book audio that was taken in."""
        self._seconds += seconds
        self._ledger.change(seconds)

    def close(self) -> None:
        """Book the request as answered."""
        self._ledger.change(-self._seconds, self._seconds)
