"""Exports the encoder to ONNX, for Triton's onnxruntime and TensorRT backends."""

import argparse
import os
from pathlib import Path

import onnx
import torch

from transcriber_engine.mel import FRAMES
from transcriber_engine.model_config import ModelConfig
from transcriber_engine.weights import load_encoder

OPSET = 18


def export_encoder(weights_dir: Path, file: Path) -> None:
    """Write the encoder of a weights folder as one ONNX file in float32: MEL [batch, mel_bins, 3000] -> HIDDEN [batch, 1500, d].

    The file is checked by onnx and appears whole or not at all. Raises FileNotFoundError where weights are missing.
    """
    encoder = load_encoder(weights_dir, "float32", "cpu")
    mel = torch.zeros(2, ModelConfig.read(weights_dir).num_mel_bins, FRAMES)
    unfinished = file.with_name(f".{file.name}.unfinished")
    program = torch.onnx.export(
        encoder,
        (mel,),
        input_names=["MEL"],
        output_names=["HIDDEN"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(unfinished, external_data=False)
    onnx.checker.check_model(str(unfinished))
    os.replace(unfinished, file)  # noqa: PTH105 - as atomic as it reads


def main() -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(prog="python -m transcriber_engine.onnx_export", description=__doc__)
    parser.add_argument("weights", type=Path, help="weights folder of a published repository")
    parser.add_argument("file", type=Path, help="the ONNX file to write, e.g. encoder.onnx")
    arguments = parser.parse_args()
    export_encoder(arguments.weights, arguments.file)


if __name__ == "__main__":
    main()
