"""Speech probabilities by Silero VAD on onnxruntime, frame by frame as audio arrives."""

from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from transcriber_engine.audio import Samples

FRAME_SAMPLES: Final = 512  # 32 ms
CONTEXT_SAMPLES: Final = 64  # of the frame before, which the network sees as well
MODEL_PATH: Final = Path(__file__).parent / "assets" / "silero_vad.onnx"


@cache
def _session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(MODEL_PATH), options, providers=["CPUExecutionProvider"])


class SpeechDetector:
    """Silero's recurrent state over one stream of 16 kHz audio."""

    def __init__(self) -> None:
        self._hidden = np.zeros((1, 1, 128), dtype=np.float32)
        self._cell = np.zeros((1, 1, 128), dtype=np.float32)
        self._context = np.zeros(CONTEXT_SAMPLES, dtype=np.float32)

    def probabilities(self, frames: Samples) -> NDArray[np.float32]:
        """Return the probability of speech in each frame: [n * 512] samples -> [n]."""
        stream = np.concatenate([self._context, frames])
        self._context = stream[-CONTEXT_SAMPLES:]
        windows = np.lib.stride_tricks.sliding_window_view(stream, CONTEXT_SAMPLES + FRAME_SAMPLES)[::FRAME_SAMPLES]
        inputs = {"input": np.ascontiguousarray(windows), "h": self._hidden, "c": self._cell}
        speech, self._hidden, self._cell = _session().run(None, inputs)
        return np.asarray(speech, dtype=np.float32).reshape(-1)
