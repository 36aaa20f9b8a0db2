"""A Triton model for tests of what is around the models: AUDIO that is text comes back as a transcript of one token per byte.

`bad…` is refused, `slow…` takes ten minutes, `inexact…` gets another first token from the target alone, `options` gets its OPTIONS.
"""

import json
import threading

import numpy as np
import triton_python_backend_utils as pb_utils

from transcriber_engine.result import Segment, Speculation, Transcript


class TritonPythonModel:
    """Answers at once."""

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        text = bytes(pb_utils.get_input_tensor_by_name(request, "AUDIO").as_numpy()[0]).decode()
        options = json.loads(pb_utils.get_input_tensor_by_name(request, "OPTIONS").as_numpy()[0])
        if text.startswith("bad"):
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("AUDIO: is bad [INVALID_ARGUMENT]"))
        if text.startswith("slow"):
            threading.Event().wait(600)
        if text == "options":
            text = json.dumps(options)
        alone = options.get("max_draft_tokens") == 0
        tokens = (0 if alone and text.startswith("inexact") else 1, *text.encode())
        segment = Segment(
            id=0, start_seconds=0, end_seconds=1, text=text, tokens=tokens, avg_logprob=0, no_speech_prob=0, compression_ratio=1
        )
        result = Transcript(
            text=text,
            language=options.get("language", "en"),
            duration_seconds=1,
            segments=(segment,),
            speculation=Speculation(cycles=2, output_tokens=8, draft_tokens=0 if alone else 8, accepted_tokens=0 if alone else 6),
        )
        value = np.array([result.model_dump_json().encode()], dtype=np.object_)
        return pb_utils.InferenceResponse([pb_utils.Tensor("RESULT", value)])
