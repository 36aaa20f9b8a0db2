"""The path of a request through the served models, in one process and without Triton."""

import threading
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from transcriber_engine.audio import AudioLimits, decode
from transcriber_engine.longform import Window
from transcriber_engine.mel import log_mel
from transcriber_engine.result import Transcript, WindowResult
from transcriber_engine.scheduler import Scheduler
from transcriber_engine.settings import EngineSettings, Options
from transcriber_engine.transcription import transcribe, window_cutter
from transcriber_engine.weights import load_decoders, load_encoder
from transcriber_engine.window import Job, WindowRequest, WindowTokens, window_result

WAIT_SECONDS = 0.1  # how often the engine's thread looks whether it is to stop


class Pipeline:
    """Audio decoding, speech detection, windows, log-mel, encoder and speculative decoding; used in a `with` statement."""

    def __init__(self, weights: Path, settings: EngineSettings) -> None:
        """Load the weights; drafts are as long as allowed, since what they cost here is not measured."""
        self.settings = settings
        self.encoder = load_encoder(weights, settings.precision, settings.device)
        self.pair = load_decoders(weights, settings.precision, settings.device, with_draft=settings.draft == "model")
        self.scheduler = Scheduler(self.pair, settings.slots, settings.draft, settings.max_draft_tokens)
        self.limits = AudioLimits(settings.max_audio_bytes, settings.max_audio_seconds)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._drive, name="engine")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()

    def transcribe(self, audio: bytes, options: Options) -> Transcript:
        """Transcribe the bytes of a file; raises RequestError as the served model does."""
        return transcribe(
            decode(audio, self.limits).blocks(),
            window_cutter(self.settings, options),
            self._decode_window,
            options,
            max_in_flight=self.settings.slots,
        )

    def _drive(self) -> None:
        while not self._stopping.is_set():
            if self.scheduler.wait_for_work(WAIT_SECONDS):
                try:
                    self.scheduler.step()
                except Exception as error:  # whoever waits for a window must hear of it
                    self.scheduler.fail_all(error)
                    raise

    @torch.inference_mode()
    def _decode_window(self, window: Window, options: Options) -> Future[WindowResult]:
        mel = torch.from_numpy(log_mel(window.samples, self.pair.config.num_mel_bins))
        request = WindowRequest.of(
            self.encoder(mel[None].to(self.encoder.conv1.weight))[0],
            options,
            self.settings,
            audio_seconds=window.seconds,
            speech_seconds=window.speech_seconds,
        )
        future: Future[WindowResult] = Future()
        future.set_running_or_notify_cancel()  # from here on it is answered, wanted or not

        def done(outcome: WindowTokens | BaseException) -> None:
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(window_result(outcome, self.pair.tokenizer, request))

        self.scheduler.submit(Job(request, done))
        return future
