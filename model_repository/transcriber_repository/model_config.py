"""Triton's `config.pbtxt` of the five models, rendered from its own protobuf."""

from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as triton

from transcriber_engine.model_config import ModelConfig

WINDOW_FRAMES: Final = 3000  # mel frames of 10 ms in a 30 s window
ENSEMBLE: Final = "whisper"


@dataclass(frozen=True)
class Tensor:
    """An input or output of a Triton model; -1 in `dims` is any length."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False


def render_models(model: ModelConfig, device: str) -> dict[str, str]:
    """Return model name -> config.pbtxt; `device` is `cpu` or `cuda` and moves the encoder and the decoder."""
    options = Tensor("OPTIONS", "TYPE_STRING", (1,))
    audio = Tensor("AUDIO", "TYPE_STRING", (1,), optional=True)
    samples = Tensor("PCM", "TYPE_FP32", (-1,))
    mel = Tensor("MEL", "TYPE_FP32", (model.num_mel_bins, WINDOW_FRAMES))
    hidden = Tensor("HIDDEN", "TYPE_FP32", (model.max_source_positions, model.d_model))
    tokens, result = Tensor("TOKENS", "TYPE_INT32", (-1,)), Tensor("RESULT", "TYPE_STRING", (1,))
    accelerator = "KIND_GPU" if device == "cuda" else "KIND_CPU"
    whole_file = (audio, Tensor("PCM", "TYPE_FP32", (-1,), optional=True), Tensor("OPTIONS", "TYPE_STRING", (1,), optional=True))
    configs = [
        _python_model("transcribe", whole_file, (result,), "KIND_CPU"),
        _python_model("log_mel", (samples,), (mel,), "KIND_CPU"),
        _python_model("whisper_encoder", (mel,), (hidden,), accelerator),
        _python_model("whisper_decoder", (hidden, options), (tokens, result), accelerator),
        _ensemble(
            (samples, options),
            (tokens, result),
            (
                ("log_mel", ("PCM",), ("MEL",)),
                ("whisper_encoder", ("MEL",), ("HIDDEN",)),
                ("whisper_decoder", ("HIDDEN", "OPTIONS"), ("TOKENS", "RESULT")),
            ),
        ),
    ]
    return {config.name: text_format.MessageToString(config) for config in configs}


def _python_model(name: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], kind: str) -> Any:
    config = _config(name, inputs, outputs)
    config.backend = "python"
    config.instance_group.add(count=1, kind=triton.ModelInstanceGroup.Kind.Value(kind))
    return config


def _ensemble(
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    steps: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...],
) -> Any:
    """An ensemble whose inner tensors bear the names that the models themselves use."""
    config = _config(ENSEMBLE, inputs, outputs)
    config.platform = "ensemble"
    for model_name, reads, writes in steps:
        config.ensemble_scheduling.step.add(
            model_name=model_name,
            model_version=-1,
            input_map={name: name for name in reads},
            output_map={name: name for name in writes},
        )
    return config


def _config(name: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> Any:
    config = triton.ModelConfig(name=name, max_batch_size=0)
    for tensor in inputs:
        config.input.add(
            name=tensor.name,
            data_type=triton.DataType.Value(tensor.data_type),
            dims=tensor.dims,
            optional=tensor.optional,
        )
    for tensor in outputs:
        config.output.add(name=tensor.name, data_type=triton.DataType.Value(tensor.data_type), dims=tensor.dims)
    return config
