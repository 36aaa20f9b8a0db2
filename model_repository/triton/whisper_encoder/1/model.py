"""Triton model `whisper_encoder`: log-mel of one window to the encoder's hidden states."""

from typing import Any

import torch

from transcriber_engine.errors import CancelledByCallerError
from transcriber_engine.turns import Turns
from transcriber_engine.weights import load_encoder
from transcriber_triton import protocol


class TritonPythonModel:
    """Adapter: one window at a time, so that a window's encoding never depends on its neighbours."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the encoder."""
        settings = protocol.settings(args)
        self.device = torch.device(settings.device)
        self.turns = Turns.offered(settings.device)
        with self.turns.turn():  # the decoder, which loads at the same time, measures what its steps cost
            self.encoder = load_encoder(protocol.repository_dir(args) / "weights", settings.precision, settings.device)
        self.dtype = self.encoder.conv1.weight.dtype

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        return [self._answer(request) for request in requests]

    @torch.inference_mode()
    def _answer(self, request: Any) -> Any:
        try:
            if protocol.cancellation(request, request.is_cancelled)():
                raise CancelledByCallerError("cancelled by the caller")
            protocol.window_facts(request).check_deadline()
            mel = torch.from_numpy(protocol.array(request, "MEL")).to(self.device, self.dtype)
            with self.turns.turn():
                hidden = self.encoder(mel[None])[0]
            return protocol.response(HIDDEN=hidden.float().cpu().numpy())
        except Exception as error:
            return protocol.error_response(error)
