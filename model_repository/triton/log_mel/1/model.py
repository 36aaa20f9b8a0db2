"""Triton model `log_mel`: PCM of one window to its log-mel spectrogram."""

from typing import Any

from transcriber_engine.audio import AudioLimits, check_pcm
from transcriber_engine.mel import WINDOW_SECONDS, log_mel
from transcriber_engine.model_config import ModelConfig
from transcriber_triton import protocol


class TritonPythonModel:
    """Adapter: parse, transform, answer."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the number of mel bins."""
        self.mel_bins = ModelConfig.read(protocol.repository_dir(args) / "weights").num_mel_bins
        self.limits = AudioLimits(max_bytes=1 << 30, max_seconds=WINDOW_SECONDS)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            samples = check_pcm(protocol.array(request, "PCM"), self.limits)
            return protocol.response(MEL=log_mel(samples, self.mel_bins))
        except Exception as error:
            return protocol.error_response(error)
