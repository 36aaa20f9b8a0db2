"""Triton model `transcribe`: a whole file or recording to its transcript.

`execute` checks a request and returns; a worker decodes the audio with bounded memory, cuts it on speech, calls the ensemble
`whisper` for each window, and answers when all are stitched. No torch in this process.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import triton_python_backend_utils as pb_utils

from transcriber_engine.admission import Claim
from transcriber_engine.audio import SAMPLE_RATE_HZ, AudioLimits, DecodedAudio, Samples, check_pcm, decode
from transcriber_engine.errors import CancelledByCallerError, DeadlinePassedError, Refusal, RequestError
from transcriber_engine.longform import Window
from transcriber_engine.model_config import TOKENIZER_FILE
from transcriber_engine.result import Transcript, WindowResult
from transcriber_engine.settings import Options
from transcriber_engine.tokens import WhisperTokenizer
from transcriber_engine.transcription import transcribe, window_cutter
from transcriber_triton import protocol
from transcriber_triton.facts import WindowFacts
from transcriber_triton.gate import WindowGate
from transcriber_triton.ledger import Account, AudioLedger, Load
from transcriber_triton.metrics import Metrics
from transcriber_triton.presence import Presence
from transcriber_triton.processes import ModelProcesses

REQUESTS_AT_ONCE = 64  # each may run a decoder of its own; more are refused, so that all audio that waits is known
WINDOW_CALLS_AT_ONCE = 24  # Triton's Python backend serves at most 32 such calls per model at once
REFUSALS = tuple(Refusal)
# Field of the ledger's load, name of the metric, how many make one of its units, description
GAUGES = (
    ("requests", "requests_in_progress", 1, "Requests taken in and not yet answered"),
    ("queued", "queued_audio_seconds", SAMPLE_RATE_HZ, "Audio that waits: announced or read, not being decoded"),
    ("in_flight", "in_flight_audio_seconds", SAMPLE_RATE_HZ, "Audio in windows that are being decoded"),
    ("canaries", "canaries_in_progress", 1, "Canaries taken in and not yet answered; no other figure of audio has them"),
)
COUNTERS = (
    ("admitted_requests", "admitted_requests", 1, "Requests taken in"),
    ("admitted", "admitted_audio_seconds", SAMPLE_RATE_HZ, "Audio taken in: announced or read, whichever was more"),
    ("decoded", "decoded_audio_seconds", SAMPLE_RATE_HZ, "Audio in windows that came back decoded, with the silence around them"),
    ("finished", "finished_audio_seconds", SAMPLE_RATE_HZ, "Audio answered with a transcript"),
)


class TritonPythonModel:
    """Adapter: admission, workers, and the figures of audio seconds."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the workers and the metrics."""
        self.settings = protocol.settings(args)
        self.tokenizer = WhisperTokenizer.read(protocol.repository_dir(args) / "weights" / TOKENIZER_FILE)
        self.limits = AudioLimits(self.settings.max_audio_bytes, self.settings.max_audio_seconds)
        self.requests = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="request")
        self.windows = ThreadPoolExecutor(WINDOW_CALLS_AT_ONCE, thread_name_prefix="window")
        self.gate = WindowGate(WINDOW_CALLS_AT_ONCE)
        self.processes = ModelProcesses()
        report = LoadReport(Metrics(args["model_name"]))
        self.ledger = AudioLedger(REQUESTS_AT_ONCE, self.settings.max_queued_audio_seconds, report)

    def execute(self, requests: list[Any]) -> list[None]:
        """Take each request in, or refuse it; the answers come later."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                options = protocol.options(request)
                if options.language is not None:
                    self.tokenizer.check_language(options.language)
                self.tokenizer.check_hotwords(options.hotwords or "")
                source = self._source(request)
                known = 0 if isinstance(source, DecodedAudio) else source.shape[0]
                account = self.ledger.open(known, is_canary=protocol.is_canary(request))
            except Exception as error:
                protocol.answer(sender, protocol.error_response(error))
            else:
                self.requests.submit(self._serve, source, options, sender, account, deadline_of(options))
        return [None] * len(requests)

    def finalize(self) -> None:
        """Let the requests at hand finish; a window's call that never ends was held by a process that died."""
        self.requests.shutdown(wait=True)
        self.windows.shutdown(wait=False)

    def _source(self, request: Any) -> Samples | DecodedAudio:
        audio, pcm = protocol.one_string(request, "AUDIO"), protocol.array(request, "PCM")
        if (audio is None) == (pcm is None):
            raise RequestError("AUDIO", "send exactly one of AUDIO (bytes of a file) and PCM (float32, mono, 16 kHz)")
        return check_pcm(pcm, self.limits) if pcm is not None else decode(audio, self.limits)

    def _serve(
        self, source: Samples | DecodedAudio, options: Options, sender: Any, account: Account, deadline_seconds: float | None
    ) -> None:
        answered = False
        try:
            transcript = self._transcribe(source, options, sender.is_cancelled, account, deadline_seconds)
            reply = protocol.response(RESULT=protocol.string(transcript.model_dump_json()))
            answered = True
        except Exception as error:
            reply = protocol.error_response(error)
        account.close(answered=answered)
        protocol.answer(sender, reply)

    def _transcribe(
        self,
        source: Samples | DecodedAudio,
        options: Options,
        is_cancelled: Callable[[], bool],
        account: Account,
        deadline_seconds: float | None,
    ) -> Transcript:
        def check() -> None:
            if is_cancelled():
                raise CancelledByCallerError("cancelled by the caller")
            if deadline_seconds is not None and time.monotonic() >= deadline_seconds:
                raise DeadlinePassedError
            self.processes.check()

        with Presence() as presence, closing(booked_blocks(source, account, check)) as blocks:

            def decode_window(window: Window, chosen: Options) -> Future[WindowResult]:
                facts = WindowFacts(
                    request=presence.name,
                    audio_seconds=window.seconds,
                    speech_seconds=window.speech_seconds,
                    deadline_seconds=deadline_seconds,
                )
                return self._call(window, chosen, facts, presence, account, check)

            transcript = transcribe(
                blocks,
                window_cutter(self.settings, options),
                decode_window,
                options.model_copy(update={"deadline_seconds": None}),  # `facts` have it, on the clock
                max_in_flight=max(self.settings.slots // 2, 1),
                check=check,
            )
        if isinstance(source, DecodedAudio):
            return transcript.model_copy(update={"warnings": tuple(source.warnings)})
        return transcript

    def _call(
        self, window: Window, options: Options, facts: WindowFacts, presence: Presence, account: Account, check: Callable[[], None]
    ) -> Future[WindowResult]:
        """Call `whisper` in a thread, as soon as one more call may be made; whoever waits here holds no other window back."""
        claim = Claim.of(facts.request, facts.deadline_seconds, time.monotonic())
        self.gate.enter(claim, check)
        account.send(window)

        def give_back(*, is_decoded: bool) -> None:
            account.receive(window, is_decoded=is_decoded)
            self.gate.leave(claim)

        def call() -> WindowResult:
            try:
                result = call_whisper(window, options, {**presence.parameters, **facts.parameters})
            except BaseException:
                give_back(is_decoded=False)
                raise
            give_back(is_decoded=True)
            return result

        future = self.windows.submit(call)
        future.add_done_callback(lambda ended: give_back(is_decoded=False) if ended.cancelled() else None)
        return future


def deadline_of(options: Options) -> float | None:
    """Return when the answer to a request that comes now is of no use any more, on the monotonic clock."""
    return None if options.deadline_seconds is None else time.monotonic() + options.deadline_seconds


def call_whisper(window: Window, options: Options, parameters: dict[str, str]) -> WindowResult:
    """Call the ensemble for one window; raises RequestError for what it refuses."""
    request = pb_utils.InferenceRequest(
        model_name="whisper",
        requested_output_names=["RESULT"],
        inputs=[
            pb_utils.Tensor("PCM", window.samples),
            pb_utils.Tensor("OPTIONS", protocol.string(options.model_dump_json(exclude_none=True))),
        ],
        parameters=parameters,
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


def booked_blocks(source: Samples | DecodedAudio, account: Account, check: Callable[[], None]) -> Iterator[Samples]:
    """Give the audio in blocks of a second; book what is announced and read, and `check` before each."""
    with closing(source.blocks() if isinstance(source, DecodedAudio) else pcm_blocks(source)) as blocks:
        for number, block in enumerate(blocks):
            check()
            if number == 0 and isinstance(source, DecodedAudio):
                account.announce(round(source.announced_seconds * SAMPLE_RATE_HZ))
            account.add(block.shape[0])
            yield block
    account.end_of_audio()


def pcm_blocks(samples: Samples) -> Iterator[Samples]:
    """Cut samples into blocks of a second, as a decoder gives them."""
    for start in range(0, samples.shape[0], SAMPLE_RATE_HZ):
        yield samples[start : start + SAMPLE_RATE_HZ]


class LoadReport:
    """Shows the load as Triton metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._shown = Load()
        self._gauges = {field: (metrics.gauge(f"transcriber_{name}", text), unit) for field, name, unit, text in GAUGES}
        self._counters = {field: (metrics.counter(f"transcriber_{name}_total", text), unit) for field, name, unit, text in COUNTERS}
        metrics.gauge("transcriber_server_start_time_seconds", "When the counters of this server began, Unix time").set(time.time())

    def __call__(self, load: Load) -> None:
        """Show what changed; each figure shown is a message to Triton."""
        shown, self._shown = self._shown, load
        for field, (gauge, unit) in self._gauges.items():
            if getattr(load, field) != getattr(shown, field):
                gauge.set(getattr(load, field) / unit)
        for field, (counter, unit) in self._counters.items():
            if (grown := getattr(load, field) - getattr(shown, field)) > 0:
                counter.increment(grown / unit)
