"""Triton model `whisper_decoder`: hidden states to tokens, many windows side by side in slots.

`execute` admits requests and returns at once; each is answered from the engine's thread when its window is done. While the slots
are full and as many windows wait for one, `execute` blocks: the backlog stays in Triton's own queue.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from transcriber_engine.scheduler import Scheduler
from transcriber_engine.turns import Turns
from transcriber_engine.weights import load_decoders
from transcriber_engine.window import Job, WindowRequest, WindowTokens, window_result
from transcriber_triton import protocol
from transcriber_triton.metrics import Metrics

WAIT_SECONDS = 0.1  # how often a wait looks whether the model is being unloaded
# Of decoding between the encodings of two windows, with all slots in use; as much less as fewer are, down to one cycle. A cycle
# reads all weights for however few rows: slots fill up first.
TURN_SECONDS = 0.3

COUNTERS = {
    "windows": "Windows decoded",
    "cancelled_windows": "Windows whose caller went away",
    "late_windows": "Windows whose deadline passed before they had a slot",
    "fallbacks": "Times that a window was decoded again at a higher temperature",
    "cycles": "Verifications by the target",
    "output_tokens": "Tokens committed",
    "draft_tokens": "Tokens drafted",
    "accepted_tokens": "Drafted tokens that the target committed",
}


class TritonPythonModel:
    """Adapter around the scheduler and the thread that drives it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the engine's thread; return once it has loaded the pair and measured it."""
        self.settings = protocol.settings(args)
        self.turns = Turns.offered(self.settings.device)
        self.failure: BaseException | None = None
        self.stopping = threading.Event()
        self.loaded: Future[None] = Future()
        self._start_metrics(args["model_name"])
        self.thread = threading.Thread(
            target=self._run, args=(protocol.repository_dir(args) / "weights",), name="engine", daemon=True
        )
        self.thread.start()
        self.loaded.result()

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
        options, facts = protocol.options(request), protocol.window_facts(request)
        deadline = facts.deadline_seconds
        if options.deadline_seconds is not None:  # from a caller of this model or of `whisper`
            deadline = time.monotonic() + options.deadline_seconds
        window = WindowRequest.of(
            torch.from_numpy(protocol.array(request, "HIDDEN")),
            options,
            self.settings,
            audio_seconds=facts.audio_seconds,
            speech_seconds=facts.speech_seconds,
        )
        is_cancelled = protocol.cancellation(request, sender.is_cancelled)
        # One that is cancelled goes in without a slot: the engine drops it, counts it and says so.
        while not is_cancelled() and not self.scheduler.wait_for_room(WAIT_SECONDS):
            pass
        if self.failure is not None:
            raise RuntimeError("the engine has stopped") from self.failure
        self.scheduler.submit(Job(window, self._reply_to(sender, window), is_cancelled, facts.request, deadline))

    def _reply_to(self, sender: Any, window: WindowRequest) -> Callable[[WindowTokens | BaseException], None]:
        def reply(outcome: WindowTokens | BaseException) -> None:
            try:
                if isinstance(outcome, BaseException):
                    raise outcome
                result = window_result(outcome, self.tokenizer, window)
                tokens = np.array(outcome.tokens, dtype=np.int32)
                answer = protocol.response(TOKENS=tokens, RESULT=protocol.string(result.model_dump_json()))
            except BaseException as error:  # what is wrong with one window must not end the engine
                answer = protocol.error_response(error)
            protocol.answer(sender, answer)

        return reply

    def _run(self, weights: Path) -> None:
        """Load and decode in one thread.

        OpenMP gives each thread that ever computed a team of its own; with more threads in teams than cores, none waits awake.
        """
        try:
            self._load(weights)
        except BaseException as error:
            self.loaded.set_exception(error)
        else:
            self.loaded.set_result(None)
            self._drive()

    def _load(self, weights: Path) -> None:
        pair = load_decoders(weights, self.settings.precision, self.settings.device, with_draft=self.settings.draft == "model")
        self.tokenizer = pair.tokenizer
        self.scheduler = Scheduler(pair, self.settings.slots, self.settings.draft, self.settings.max_draft_tokens)
        with self.turns.turn():
            self.scheduler.calibrate()

    def _drive(self) -> None:
        """Run the engine; a failure ends the windows it held and every later request, loudly, instead of hanging them."""
        try:
            while self.scheduler.held or not self.stopping.is_set():
                if self.scheduler.wait_for_work(WAIT_SECONDS):
                    with self.turns.turn():
                        self._decode_a_turn()
                    self._report()
        except BaseException as error:
            self.failure = error
            pb_utils.Logger.log_error(f"the engine has stopped: {type(error).__name__}: {error}")
            self.scheduler.fail_all(error)
            raise

    def _decode_a_turn(self) -> None:
        began = time.monotonic()
        while self.scheduler.step():
            if time.monotonic() - began >= TURN_SECONDS * self.scheduler.active / self.scheduler.slots:
                break

    def _start_metrics(self, model: str) -> None:
        self.metrics = Metrics(model)
        self.counters = {name: self.metrics.counter(f"transcriber_{name}_total", text) for name, text in COUNTERS.items()}
        self.reported = dict.fromkeys(COUNTERS, 0)
        self.slots_active = self.metrics.gauge("transcriber_slots_active", "Slots that decode a window")
        self.windows_waiting = self.metrics.gauge("transcriber_windows_waiting", "Windows admitted that wait for a slot")
        self.metrics.gauge("transcriber_slots", "Slots there are").set(self.settings.slots)

    def _report(self) -> None:
        for name, counter in self.counters.items():
            total = getattr(self.scheduler.counters, name)
            counter.increment(total - self.reported[name])
            self.reported[name] = total
        self.slots_active.set(self.scheduler.active)
        self.windows_waiting.set(self.scheduler.waiting)
