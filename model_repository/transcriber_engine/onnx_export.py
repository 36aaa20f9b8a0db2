"""Exports the encoder to ONNX, for Triton's onnxruntime and TensorRT backends."""

import argparse
import os
from pathlib import Path
from typing import Literal, get_args

import onnx
import torch
from torch import Tensor, nn

from transcriber_engine.encoder import Encoder
from transcriber_engine.mel import FRAMES
from transcriber_engine.model_config import ModelConfig
from transcriber_engine.weights import DTYPES, load_encoder

OPSET = 18
Precision = Literal["float32", "float16"]


class Float32Ends(nn.Module):
    """An encoder of any precision that takes and gives float32, as the Triton models hand MEL and HIDDEN to each other."""

    def __init__(self, encoder: Encoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder = encoder
        self.dtype = dtype

    def forward(self, mel: Tensor) -> Tensor:
        """Encode: float32 [B, num_mel_bins, 3000] -> float32 [B, 1500, d_model]."""
        hidden: Tensor = self.encoder(mel.to(self.dtype))
        return hidden.float()


def export_encoder(weights_dir: Path, file: Path, precision: Precision = "float32") -> None:
    """Write the encoder of a weights folder as one ONNX file: MEL [batch, mel_bins, 3000] -> HIDDEN [batch, 1500, d_model].

    MEL and HIDDEN are float32; `precision` is that of the weights and of what is computed in between. Layer norms, whose squares
    are beyond float16's range, are computed in float32 in either case: ONNX says so of the operator (`stash_type`).
    The file is checked by onnx and appears whole or not at all. Raises FileNotFoundError where weights are missing.
    """
    encoder = Float32Ends(load_encoder(weights_dir, precision, "cpu", for_export=True), DTYPES[precision]).eval()
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
    parser.add_argument("--precision", choices=get_args(Precision), default="float32", help="of the weights; default float32")
    arguments = parser.parse_args()
    export_encoder(arguments.weights, arguments.file, arguments.precision)


if __name__ == "__main__":
    main()
