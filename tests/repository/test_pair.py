"""Which draft may speak for which target."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.repository import tiny
from transcriber_repository.errors import Reason, RepositoryError
from transcriber_repository.formats.detect import read_model
from transcriber_repository.formats.tensors import TensorRange
from transcriber_repository.pair import check_pair


def pair(target: Path, draft: Path) -> dict[str, TensorRange]:
    return check_pair(read_model("spec.model.target", target), read_model("spec.model.draft", draft))


def refusal(target: Path, draft: Path) -> str:
    with pytest.raises(RepositoryError, match=r"^spec.model.draft: ") as error:
        pair(target, draft)
    assert error.value.reason is Reason.DRAFT_INCOMPATIBLE
    return str(error.value)


def full_draft(folder: Path, changed: dict[str, np.ndarray] | None = None, **dimensions: int) -> Path:
    """A draft as the hub has them: the target's encoder and embeddings, and one trained layer."""
    weights = {name: value for name, value in tiny.tensors().items() if ".decoder.layers." not in name}
    sizes = tiny.DIMENSIONS | {"decoder_layers": 1} | dimensions
    return tiny.write_hf(folder, weights | tiny.draft_tensors() | (changed or {}), sizes)


def test_draft_of_decoder_layers_alone_brings_just_these(target: Path, draft: Path) -> None:
    assert pair(target, draft).keys() == tiny.draft_tensors().keys()


def test_full_draft_brings_what_differs_from_the_target(target: Path, tmp_path: Path) -> None:
    assert pair(target, full_draft(tmp_path / "full")).keys() == tiny.draft_tensors().keys()


def test_full_draft_with_own_embeddings_brings_these_too(target: Path, tmp_path: Path) -> None:
    name = "model.decoder.embed_tokens.weight"
    own = pair(target, full_draft(tmp_path / "full", {name: tiny.tensors(seed=5)[name]}))
    assert own.keys() == tiny.draft_tensors().keys() | {name}


def test_draft_layer_equal_to_the_targets_is_still_the_drafts_own(target: Path, tmp_path: Path) -> None:
    layer = {name: value for name, value in tiny.tensors().items() if ".decoder.layers.0." in name}
    own = pair(target, full_draft(tmp_path / "full", layer))
    assert layer.keys() <= own.keys()


def test_draft_in_single_precision_may_share_an_encoder_in_half(target: Path, tmp_path: Path) -> None:
    encoder = {name: value.astype("float32") for name, value in tiny.tensors().items() if ".encoder." in name}
    assert pair(target, full_draft(tmp_path / "full", encoder))


def test_other_encoder_is_refused_by_name(target: Path, tmp_path: Path) -> None:
    name = "model.encoder.layers.1.fc1.weight"
    message = refusal(target, full_draft(tmp_path / "full", {name: tiny.tensors(seed=9)[name]}))
    assert f"encoder tensor {name!r} is not the target's" in message
    assert "separate encoders are not supported" in message


def test_draft_that_lacks_an_encoder_and_does_not_say_so_is_refused(target: Path, draft: Path) -> None:
    config = json.loads((draft / "config.json").read_text())
    del config["shares_with_target"]
    (draft / "config.json").write_text(json.dumps(config))
    assert "encoder tensor 'model.encoder.conv1.bias' is not the target's" in refusal(target, draft)


def test_english_only_draft_of_a_multilingual_target_is_refused_with_the_arithmetic(tmp_path: Path) -> None:
    sizes = {name: tiny.DIMENSIONS | {"vocab_size": size} for name, size in (("base", 51865), ("tiny.en", 51864))}
    target, draft = (tiny.write_hf(tmp_path / name, dimensions=size) for name, size in sizes.items())
    message = refusal(target, draft)
    assert "has a vocabulary of 51864 tokens, the target 51865: 51864 - 51865 = -1" in message
    assert "51864 is an English-only Whisper; 51865 is a multilingual Whisper" in message


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        ({"num_mel_bins": 8}, "has 8 mel bins, the target has 4"),
        ({"d_model": 16}, "has 16 d_model, the target has 8"),
        ({"decoder_attention_heads": 4}, "has 4 decoder attention heads, the target has 2"),
        ({"decoder_ffn_dim": 32}, "has 32 decoder feed-forward width, the target has 16"),
        ({"max_target_positions": 20}, "has 20 max_target_positions, the target has 16"),
        ({"decoder_layers": 3}, "has 3 decoder layers, the target 3: a draft needs fewer"),
    ],
)
def test_draft_of_other_dimensions_is_refused(target: Path, tmp_path: Path, dimensions: dict[str, int], message: str) -> None:
    sizes = tiny.DIMENSIONS | {"decoder_layers": 1} | dimensions
    assert message in refusal(target, tiny.write_hf(tmp_path / "draft", dimensions=sizes))


def test_draft_with_another_tokenizer_of_the_same_size_is_refused(target: Path, tmp_path: Path) -> None:
    draft = full_draft(tmp_path / "full")
    tiny.write_tokenizer(draft, [*tiny.TOKENS[1::-1], *tiny.TOKENS[2:]])
    assert "tokenizer.json has another vocabulary than the target's" in refusal(target, draft)


def test_tokenizers_that_differ_in_timestamps_alone_are_the_same(target: Path, tmp_path: Path) -> None:
    draft = full_draft(tmp_path / "full")
    tiny.write_tokenizer(draft, [*tiny.TOKENS, "<|0.00|>", "<|0.02|>"])
    assert pair(target, draft)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("model.decoder.layers.0.fc1.bias"), "tensor 'model.decoder.layers.0.fc1.bias' is missing"),
        (lambda weights: weights.update({"model.decoder.layers.7.fc1.bias": np.zeros(16, "float16")}), "is not Whisper's"),
        (lambda weights: weights.update({"model.decoder.layers.0.fc1.bias": np.zeros(3, "float16")}), "has shape [3]"),
        (lambda weights: weights.update({"extra.weight": np.zeros(3, "float16")}), "tensor 'extra.weight' is not Whisper's"),
    ],
)
def test_draft_with_wrong_tensors_is_refused_by_name(target: Path, tmp_path: Path, change: Any, message: str) -> None:
    weights = tiny.draft_tensors()
    change(weights)
    assert message in refusal(target, tiny.write_draft(tmp_path / "draft", weights))
