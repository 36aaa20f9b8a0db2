"""Triton model `whisper_decoder`: hidden states to tokens, many windows side by side in slots.

`execute` admits requests and returns at once; each is answered from the engine's thread when its window is done. While the slots
are full `execute` blocks, so that Triton's own pending count says how many windows wait.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from transcriber_engine.scheduler import Job, Scheduler, WindowRequest, WindowTokens
from transcriber_engine.settings import Options
from transcriber_engine.weights import load_decoders
from transcriber_engine.window import window_result
from transcriber_triton import protocol
from transcriber_triton.metrics import Metrics

WAIT_SECONDS = 0.1  # how often a wait looks whether the model is being unloaded
WINDOW_SECONDS = 30.0

COUNTERS = {
    "windows": "Windows decoded",
    "cancelled_windows": "Windows whose caller went away",
    "cycles": "Verifications by the target",
    "output_tokens": "Tokens committed",
    "draft_tokens": "Tokens drafted",
    "accepted_tokens": "Drafted tokens that the target committed",
}


class TritonPythonModel:
    """Adapter around the scheduler and the thread that drives it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the pair, measure it, start the engine's thread."""
        self.settings = protocol.settings(args)
        weights = protocol.repository_dir(args) / "weights"
        pair = load_decoders(weights, self.settings.precision, self.settings.device, with_draft=self.settings.draft == "model")
        self.tokenizer = pair.tokenizer
        self.scheduler = Scheduler(pair, self.settings.slots, self.settings.draft, self.settings.max_draft_tokens)
        self.scheduler.calibrate()
        self.failure: BaseException | None = None
        self.stopping = threading.Event()
        self._start_metrics(args["model_name"])
        self.thread = threading.Thread(target=self._drive, name="engine", daemon=True)
        self.thread.start()

    def execute(self, requests: list[Any]) -> list[None]:
        """Admit each request as soon as there is a slot for it; the answers come later."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._admit(request, sender)
            except Exception as error:
                protocol.answer(sender, protocol.error_response(error))
        return [None] * len(requests)

    def finalize(self) -> None:
        """Let the windows in the slots finish, then stop."""
        self.stopping.set()
        self.thread.join()

    def _admit(self, request: Any, sender: Any) -> None:
        options = protocol.options(request)
        hidden = torch.from_numpy(protocol.array(request, "HIDDEN"))
        is_cancelled = protocol.cancellation(request, sender.is_cancelled)
        # One that is cancelled goes in without a slot: the engine drops it, counts it and says so.
        while not is_cancelled() and not self.scheduler.wait_for_room(WAIT_SECONDS):
            pass
        if self.failure is not None:
            raise RuntimeError("the engine has stopped") from self.failure
        self.scheduler.submit(Job(self._window(hidden, options), self._reply_to(sender), is_cancelled))

    def _window(self, hidden: torch.Tensor, options: Options) -> WindowRequest:
        defaults = self.settings
        most = defaults.max_draft_tokens if options.max_draft_tokens is None else options.max_draft_tokens
        return WindowRequest(
            hidden=hidden,
            language=options.language or defaults.language,
            task=options.task or defaults.task,
            timestamps=(options.timestamps or defaults.timestamps) == "segment",
            previous_text=options.prompt,
            max_draft_tokens=most,
        )

    def _reply_to(self, sender: Any) -> Callable[[WindowTokens | BaseException], None]:
        def reply(outcome: WindowTokens | BaseException) -> None:
            try:
                if isinstance(outcome, BaseException):
                    raise outcome
                result = window_result(outcome, self.tokenizer, WINDOW_SECONDS)
                tokens = np.array(outcome.tokens, dtype=np.int32)
                answer = protocol.response(TOKENS=tokens, RESULT=protocol.string(result.model_dump_json()))
            except BaseException as error:  # what is wrong with one window must not end the engine
                answer = protocol.error_response(error)
            protocol.answer(sender, answer)

        return reply

    def _drive(self) -> None:
        """Run the engine; a failure ends the windows it held and every later request, loudly, instead of hanging them."""
        try:
            while self.scheduler.held or not self.stopping.is_set():
                if self.scheduler.wait_for_work(WAIT_SECONDS):
                    self.scheduler.step()
                    self._report()
        except BaseException as error:
            self.failure = error
            pb_utils.Logger.log_error(f"the engine has stopped: {type(error).__name__}: {error}")
            self.scheduler.fail_all(error)
            raise

    def _start_metrics(self, model: str) -> None:
        self.metrics = Metrics(model)
        self.counters = {name: self.metrics.counter(f"transcriber_{name}_total", text) for name, text in COUNTERS.items()}
        self.reported = dict.fromkeys(COUNTERS, 0)
        self.slots_active = self.metrics.gauge("transcriber_slots_active", "Slots that decode a window")
        self.metrics.gauge("transcriber_slots", "Slots there are").set(self.settings.slots)

    def _report(self) -> None:
        for name, counter in self.counters.items():
            total = getattr(self.scheduler.counters, name)
            counter.increment(total - self.reported[name])
            self.reported[name] = total
        self.slots_active.set(self.scheduler.active)
