"""The encoder as ONNX, run by onnxruntime, against torch."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.engine.conftest import SpokenWindow
from transcriber_engine.onnx_export import export_encoder


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")  # torch's exporter warns of its own deprecations
def test_the_exported_encoder_agrees_with_torch(weights_dir: Path, spoken_windows: list[SpokenWindow], tmp_path: Path) -> None:
    file = tmp_path / "encoder.onnx"
    export_encoder(weights_dir, file)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    windows = spoken_windows[:3]
    mel = torch.cat([window.mel for window in windows]).numpy()
    [hidden] = session.run(None, {"MEL": mel})
    expected = torch.stack([window.hidden for window in windows]).numpy()
    assert np.abs(hidden - expected).max() < 2e-3
