"""The encoder as ONNX, run by onnxruntime, against the float32 encoder in torch, and what the decoder makes of either."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from tests.engine.conftest import SpokenWindow, decode
from tests.engine.recordings import READING
from tests.thorough import THOROUGH
from transcriber_engine.onnx_export import export_encoder, main
from transcriber_engine.pair import DecoderPair
from transcriber_engine.ragged import RaggedTokens

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),  # torch's exporter warns of its own deprecations
]

FLOAT16_ROUNDOFF = 2.0**-11
# Each of the six layers rounds its sum twice: errors that do not know of each other add up to √12 roundoffs, about 3.5. Single
# numbers are no measure: at a few frames the encoder amplifies any rounding a hundredfold (torch's own float16 does so more).
FLOAT16_ROUNDOFFS = 8
# Logits move by up to 0.03 under such errors, in either direction: only choices closer than that may turn.
FLOAT16_MARGIN = 0.1


@pytest.fixture(scope="module")
def float16_file(weights_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export in float16 from the command line."""
    file = tmp_path_factory.mktemp("float16") / "encoder.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["onnx_export", str(weights_dir), str(file), "--precision", "float16"])
        main()
    return file


def run(file: Path, windows: Sequence[SpokenWindow]) -> Tensor:
    """Encode windows in one batch: [n, 1500, 512]."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    [hidden] = session.run(None, {"MEL": torch.cat([window.mel for window in windows]).numpy()})
    assert hidden.dtype == np.float32
    return torch.from_numpy(hidden)


def test_the_exported_encoder_agrees_with_torch(weights_dir: Path, spoken_windows: list[SpokenWindow], tmp_path: Path) -> None:
    file = tmp_path / "encoder.onnx"
    export_encoder(weights_dir, file)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]
    windows = spoken_windows[:3]
    expected = torch.stack([window.hidden for window in windows])
    assert (run(file, windows) - expected).abs().max() < 2e-3


def test_the_encoder_exported_in_float16_agrees_with_torch_in_float32_as_well_as_float16_can(
    float16_file: Path, spoken_windows: list[SpokenWindow]
) -> None:
    windows = spoken_windows[:6]
    for window, hidden in zip(windows, run(float16_file, windows), strict=True):
        relative = float((hidden - window.hidden).norm() / window.hidden.norm())
        assert relative < FLOAT16_ROUNDOFFS * FLOAT16_ROUNDOFF, window.name


def test_the_encoder_exported_in_float16_holds_float16_weights_and_computes_layer_norms_in_float32(float16_file: Path) -> None:
    model = onnx.load(float16_file)
    types = {onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type) for tensor in model.graph.initializer}
    assert types == {np.dtype("float16"), np.dtype("int64")}  # the latter are shapes
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    assert len(norms) == 13
    stash_types = [attribute.i for norm in norms for attribute in norm.attribute if attribute.name == "stash_type"]
    assert stash_types == [onnx.TensorProto.FLOAT] * len(norms)


def test_what_is_decoded_from_the_float16_encoder_differs_only_where_the_target_hardly_prefers_one_token(
    float16_file: Path, pair: DecoderPair, spoken_windows: list[SpokenWindow]
) -> None:
    sentences = ("pangram", "quick-brown-fox", READING.name)
    windows = [window for window in spoken_windows if " " not in window.name and any(name in window.name for name in sentences)]
    assert len(windows) == (10 if THOROUGH else 4)
    encoded = run(float16_file, windows)
    exported = [replace(window, hidden=hidden) for window, hidden in zip(windows, encoded, strict=True)]
    decoded = decode(pair, [*windows, *exported], 10, "none", 0, timestamps=False, detect=False)
    ours, theirs = decoded[: len(windows)], decoded[len(windows) :]
    differing = {
        window.name: margin(pair, window, one.tokens, other.tokens)
        for window, one, other in zip(windows, ours, theirs, strict=True)
        if one.tokens != other.tokens
    }
    assert all(0 <= lead < FLOAT16_MARGIN for lead in differing.values()), differing


@torch.inference_mode()
def margin(pair: DecoderPair, window: SpokenWindow, chosen: Sequence[int], other: Sequence[int]) -> float:
    """How far, in logits, the target prefers the first token of `chosen` that differs to that of `other`."""
    end = pair.tokenizer.end_of_text
    chosen, other = [*chosen, end], [*other, end]
    place = next(i for i, (a, b) in enumerate(zip(chosen, other, strict=False)) if a != b)
    prompt = pair.tokenizer.prompt(window.language, "transcribe", timestamps=False, previous_text=None)
    tokens = RaggedTokens.of_rows([(0, 0, [*prompt, *chosen[:place]])], torch.device("cpu"))
    cache = pair.target.allocate(1)
    pair.target.admit(cache, 0, window.hidden)
    logits = pair.target.logits(pair.target(cache, tokens)[-1])
    return float(logits[chosen[place]] - logits[other[place]])


def test_an_export_that_fails_leaves_the_file_of_the_one_before(
    weights_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "encoder.onnx"
    file.write_bytes(b"the one before")

    def invalid(_path: str) -> None:
        raise onnx.checker.ValidationError("no valid model")

    monkeypatch.setattr(onnx.checker, "check_model", invalid)
    with pytest.raises(onnx.checker.ValidationError):
        export_encoder(weights_dir, file, "float16")
    assert file.read_bytes() == b"the one before"
