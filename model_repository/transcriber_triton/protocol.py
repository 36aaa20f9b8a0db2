"""What every Triton model of a repository shares: its settings, its inputs, and errors that answer one request.

Imported inside Triton alone, whose Python backend provides `triton_python_backend_utils`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from transcriber_engine.errors import CancelledByCallerError, Refusal, RequestError
from transcriber_engine.settings import EngineSettings, Options
from transcriber_triton.facts import WindowFacts
from transcriber_triton.presence import withdrawal

CANARY_PARAMETER: Final = "transcriber_canary"


def repository_dir(args: dict[str, str]) -> Path:
    """Return the published repository that a model folder `models/NAME` belongs to."""
    return Path(args["model_repository"]).parent.parent


def settings(args: dict[str, str]) -> EngineSettings:
    """Read the repository's engine.json."""
    return EngineSettings.read(repository_dir(args) / "engine.json")


def array(request: Any, name: str) -> NDArray[Any] | None:
    """Return a copy of an input (Triton frees requests when `execute` returns), None where it was not sent."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else np.array(tensor.as_numpy())


def one_string(request: Any, name: str) -> bytes | None:
    """Return the one element of a string input; raises RequestError for another shape."""
    values = array(request, name)
    if values is None:
        return None
    if values.shape != (1,):
        raise RequestError(name, f"must have shape [1], not {list(values.shape)}")
    return bytes(values[0])


def options(request: Any) -> Options:
    """Parse a request's OPTIONS; raises RequestError."""
    return Options.parse(one_string(request, "OPTIONS") or b"{}")


def window_facts(request: Any) -> WindowFacts:
    """Return what the caller of a window told of it; raises RequestError."""
    return WindowFacts.told_by(request.parameters())


def cancellation(request: Any, is_cancelled: Callable[[], bool]) -> Callable[[], bool]:
    """Return what says whether the caller of a window went away: one over gRPC (`is_cancelled`), or `transcribe` on its behalf."""
    is_withdrawn = withdrawal(request.parameters())
    return lambda: is_withdrawn() or is_cancelled()


def is_canary(request: Any) -> bool:
    """Return whether a request only asks whether this server works: it marks itself, and counts as no work."""
    return json.loads(request.parameters() or "{}").get(CANARY_PARAMETER) is True


def response(**outputs: NDArray[Any]) -> Any:
    """Build a response."""
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs.items()])


def string(text: str) -> NDArray[np.object_]:
    """Build a string tensor of shape [1]."""
    return np.array([text.encode("utf-8")], dtype=np.object_)


def error_response(error: BaseException) -> Any:
    """Build the answer to a request that failed; the text ends with the kind of refusal."""
    if isinstance(error, RequestError):
        # The backend adds TritonError to its module after the models are imported, so its codes are looked up here.
        later = error.refusal in (Refusal.RESOURCE_EXHAUSTED, Refusal.DEADLINE_EXCEEDED)
        code = pb_utils.TritonError.UNAVAILABLE if later else pb_utils.TritonError.INVALID_ARG
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{error} [{error.refusal}]", code))
    if isinstance(error, CancelledByCallerError):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.CANCELLED))
    message = f"internal error: {type(error).__name__}: {error} [INTERNAL]"
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INTERNAL))


def answer(sender: Any, reply: Any) -> None:
    """Send the one response of a deferred request."""
    sender.send(reply, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
