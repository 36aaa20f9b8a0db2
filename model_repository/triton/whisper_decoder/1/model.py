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
        while not self.scheduler.wait_for_room(WAIT_SECONDS):
            if request.is_cancelled():
                break  # the engine drops it, and says so
        if self.failure is not None:
            raise RuntimeError("the engine has stopped") from self.failure
        self.scheduler.submit(Job(self._window(hidden, options), self._reply_to(sender), sender.is_cancelled))
        self.slots_active.set(self.scheduler.active)

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
            if isinstance(outcome, WindowTokens):
                result = window_result(outcome, self.tokenizer, WINDOW_SECONDS)
                tokens = np.array(outcome.tokens, dtype=np.int32)
                answer = protocol.response(TOKENS=tokens, RESULT=protocol.string(result.model_dump_json()))
            else:
                answer = protocol.error_response(outcome)
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
        # The families are kept: a Metric whose family is collected raises.
        self.families = []

        def metric(name: str, description: str, kind: Any) -> Any:
            family = pb_utils.MetricFamily(name=name, description=description, kind=kind)
            self.families.append(family)
            return family.Metric(labels={"model": model})

        self.counters = {
            name: metric(f"transcriber_{name}_total", text, pb_utils.MetricFamily.COUNTER) for name, text in COUNTERS.items()
        }
        self.reported = dict.fromkeys(COUNTERS, 0)
        self.slots_active = metric("transcriber_slots_active", "Slots that decode a window", pb_utils.MetricFamily.GAUGE)
        metric("transcriber_slots", "Slots there are", pb_utils.MetricFamily.GAUGE).set(self.settings.slots)

    def _report(self) -> None:
        for name, counter in self.counters.items():
            total = getattr(self.scheduler.counters, name)
            counter.increment(total - self.reported[name])
            self.reported[name] = total
        self.slots_active.set(self.scheduler.active)
