"""Hugging Face and CTranslate2 checkpoints, and everything that only claims to be one."""

import json
import os
import pickle
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from tests.repository import tiny
from transcriber_repository.errors import Reason, RepositoryError
from transcriber_repository.formats.detect import read_model
from transcriber_repository.formats.tensors import TensorRange, equal, read_safetensors, write_safetensors
from transcriber_repository.pair import check_target


def refusal(folder: Path) -> str:
    with pytest.raises(RepositoryError) as error:
        check_target(read_model("spec.model.target", folder))
    assert error.value.reason is Reason.UNSUPPORTED_FORMAT
    return str(error.value)


def test_ctranslate2_and_hugging_face_of_the_same_weights_are_the_same_model(tmp_path: Path) -> None:
    ours = read_model("spec.model.target", tiny.write_ct2(tmp_path / "ct2"))
    theirs = read_model("spec.model.target", tiny.write_hf(tmp_path / "hf"))
    assert check_target(ours) == check_target(theirs)
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(equal(ours.tensors[name], theirs.tensors[name]) for name in ours.tensors)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_written_safetensors_keep_names_precision_and_bits(tmp_path: Path, dtype: str) -> None:
    weights = tiny.tensors(dtype=dtype)
    model = read_model("spec.model.target", tiny.write_hf(tmp_path / "hf", weights))
    write_safetensors(tmp_path / "out.safetensors", model.tensors, lambda count: None)
    written = load_file(tmp_path / "out.safetensors")
    assert written.keys() == weights.keys()
    assert all(written[name].dtype == dtype and np.array_equal(written[name], weights[name]) for name in weights)


def test_shards_with_an_index_are_one_model(target: Path) -> None:
    weights = load_file(target / "model.safetensors")
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: weights[name] for name in part}, target / shard)
    (target / "model.safetensors").unlink()
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    model = read_model("spec.model.target", target)
    assert sorted(model.tensors) == names
    (target / "model-00002-of-00002.safetensors").unlink()
    assert "names 'model-00002-of-00002.safetensors', which is not among the files" in refusal(target)


def test_index_that_points_out_of_the_folder_is_refused(target: Path) -> None:
    (target / "model.safetensors").unlink()
    (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../draft/model.safetensors"}}))
    assert "names '../draft/model.safetensors', which is not among the files" in refusal(target)


def test_stored_output_head_is_dropped_where_it_is_the_embedding_and_refused_where_not(tmp_path: Path) -> None:
    weights = tiny.tensors()
    embedding = weights["model.decoder.embed_tokens.weight"]
    model = read_model("spec.model.target", tiny.write_hf(tmp_path / "tied", weights | {"proj_out.weight": embedding}))
    assert "proj_out.weight" not in model.tensors
    assert "Whisper ties them" in refusal(tiny.write_hf(tmp_path / "untied", weights | {"proj_out.weight": embedding + 1}))


def test_generation_config_wins_over_config(target: Path) -> None:
    (target / "generation_config.json").write_text(json.dumps({"suppress_tokens": [5], "begin_suppress_tokens": None}))
    config = check_target(read_model("spec.model.target", target))
    assert (config.suppress_tokens, config.begin_suppress_tokens) == ((5,), ())


def test_alignment_heads_are_read_from_either_format(target: Path, tmp_path: Path) -> None:
    for folder in (target, tiny.write_ct2(tmp_path / "ct2")):
        assert check_target(read_model("spec.model.target", folder)).alignment_heads == ((1, 0), (2, 1))


@pytest.mark.parametrize("heads", [None, [], [[2, 0], [3, 0]], [[0, 2]]])
def test_heads_that_a_model_lacks_are_not_taken_for_its_own(tmp_path: Path, heads: Any) -> None:
    config = check_target(read_model("spec.model.target", tiny.write_hf(tmp_path / "x", alignment_heads=heads)))
    assert config.alignment_heads == ()
    assert config.heads_that_align == ((1, 0), (1, 1), (2, 0), (2, 1))


class Marker:
    """A pickle that writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin", "tokenizer.json"])
@pytest.mark.parametrize("packing", ["plain", "zip"])
def test_pickle_under_any_name_is_refused_and_never_run(target: Path, tmp_path: Path, name: str, packing: str) -> None:
    marker = tmp_path / "executed"
    payload = pickle.dumps(Marker(marker))
    (target / name).write_bytes(payload)
    if packing == "zip":
        with zipfile.ZipFile(target / name, "w") as archive:
            archive.writestr("archive/data.pkl", payload)
    assert refusal(target) == f"{name}: is a pickle, which runs code when it is read: give the safetensors file"
    assert not marker.exists()


@pytest.mark.parametrize("length", [0, 3, 2**63, 2**64 - 1, 10**9])
def test_header_length_that_lies_is_refused(target: Path, length: int) -> None:
    content = (target / "model.safetensors").read_bytes()
    (target / "model.safetensors").write_bytes(struct.pack("<Q", length) + content[8:])
    assert "model.safetensors: is not a whole safetensors file" in refusal(target)


@pytest.mark.parametrize("kept", [0, 4, 100, -1, -1000])
def test_truncated_safetensors_is_refused(target: Path, kept: int) -> None:
    content = (target / "model.safetensors").read_bytes()
    (target / "model.safetensors").write_bytes(content[:kept])
    assert "model.safetensors: is not a whole safetensors file" in refusal(target)


def test_code_in_the_config_is_refused(tmp_path: Path) -> None:
    assert "auto_map, which names code to run" in refusal(tiny.write_hf(tmp_path / "x", auto_map={"AutoModel": "evil.Model"}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "wav2vec2"}, "model_type is 'wav2vec2': only 'whisper' is served"),
        ({"activation_function": "relu"}, "activation_function 'relu'"),
        ({"d_model": "8"}, "d_model is '8', not a whole number"),
        ({"vocab_size": 2**40}, "vocab_size is"),
        ({"suppress_tokens": "all"}, "suppress_tokens is not a list"),
        ({"suppress_tokens": [999_999]}, "suppressed token 999999 is beyond the vocabulary of 1520"),
        ({"alignment_heads": "ABzY8"}, "alignment_heads is not a list of [layer, head]"),
        ({"alignment_heads": [[1, -1]]}, "alignment_heads is not a list of [layer, head]"),
        ({"alignment_heads": [[1, True]]}, "alignment_heads is not a list of [layer, head]"),
        ({"alignment_heads": [[1, 0, 0]]}, "alignment_heads is not a list of [layer, head]"),
        ({"encoder_attention_heads": 3}, "d_model 8 does not divide by 3 encoder attention heads"),
        ({"decoder_layers": 2}, "tensor 'model.decoder.layers.2.encoder_attn.k_proj.weight' is not Whisper's"),
        ({"decoder_layers": 4}, "tensor 'model.decoder.layers.3.self_attn.q_proj.weight' is missing"),
        ({"num_mel_bins": 5}, "has shape [8, 4, 3], its config says [8, 5, 3]"),
    ],
)
def test_config_that_does_not_fit_names_what_is_wrong(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    assert message in refusal(tiny.write_hf(tmp_path / "x", None, tiny.DIMENSIONS, **config))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_config_that_is_no_json_object_is_refused(target: Path, content: bytes) -> None:
    (target / "config.json").write_bytes(content)
    assert refusal(target).startswith("config.json: is not")


def test_tokenizer_that_belongs_to_other_weights_is_refused_with_the_arithmetic(target: Path) -> None:
    tiny.write_tokenizer(target, ["z", *tiny.TOKENS])
    assert "counts 1521 tokens (20 + 1501 timestamps), model.safetensors has 1520" in refusal(target)


@pytest.mark.parametrize("content", [b"{}", b"not json", b'{"model": {"type": "WordLevel", "vocab": {}, "unk_token": ""}}'])
def test_tokenizer_that_is_none_is_refused(target: Path, content: bytes) -> None:
    (target / "tokenizer.json").write_bytes(content)
    assert "tokenizer.json': is not a Whisper tokenizer" in refusal(target)


def test_tokenizer_that_is_missing_is_asked_for(target: Path) -> None:
    (target / "tokenizer.json").unlink()
    assert "spec.model.target.files: lacks tokenizer.json" in refusal(target)


def test_folder_without_weights_or_with_two_formats_is_refused(target: Path, tmp_path: Path) -> None:
    tiny.write_ct2(target)
    assert "must hold exactly one of" in refusal(target)
    (target / "model.safetensors").unlink()
    (target / "model.bin").unlink()
    assert "there is config.json, tokenizer.json" in refusal(target)


def test_quantised_ctranslate2_is_refused_with_the_way_out(tmp_path: Path) -> None:
    variables = tiny.ct2_variables(tiny.tensors())
    name = "decoder/layer_0/ffn/linear_0/weight"
    variables[name] = variables[name].astype("int8")
    content = tiny.ct2_bytes(variables)
    assert f"{name!r} is int8: quantised weights are not served; convert again" in refusal(tiny.write_ct2(tmp_path / "x", content))


def test_ctranslate2_of_another_model_is_refused(tmp_path: Path) -> None:
    content = tiny.ct2_bytes(tiny.ct2_variables(tiny.tensors()), "TransformerSpec")
    assert "is 'TransformerSpec' version 6, not WhisperSpec 6" in refusal(tiny.write_ct2(tmp_path / "x", content))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("decoder/activation", np.int8(0), "decoder/activation is 0, Whisper's is 3"),
        ("decoder/layer_0/gate/weight", np.zeros(3, "float16"), "'decoder/layer_0/gate/weight' is not Whisper's"),
        ("decoder/projection/weight", np.zeros((1520, 8), "float16"), "Whisper ties them"),
        ("encoder/layer_0/self_attention/linear_0/bias", np.ones(24, "float16"), "has a bias for keys"),
        ("encoder/layer_0/self_attention/linear_0/bias", np.ones(23, "float16"), "does not divide by 3"),
    ],
)
def test_ctranslate2_variable_that_whisper_has_not_is_named(tmp_path: Path, name: str, value: np.ndarray, message: str) -> None:
    variables = tiny.ct2_variables(tiny.tensors()) | {name: value}
    assert message in refusal(tiny.write_ct2(tmp_path / "x", tiny.ct2_bytes(variables)))


@pytest.fixture(scope="module")
def ct2_content() -> bytes:
    return tiny.ct2_bytes(tiny.ct2_variables(tiny.tensors()))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_ctranslate2_cut_or_changed_anywhere_in_its_directory_is_refused_or_read_but_never_crashes(
    tmp_path: Path, ct2_content: bytes, data: st.DataObject
) -> None:
    content = bytearray(ct2_content)
    if data.draw(st.booleans(), "cut"):
        content = content[: data.draw(st.integers(0, len(content) - 1), "kept")]
        tiny.write_ct2(tmp_path, bytes(content))
        refusal(tmp_path)
        return
    content[data.draw(st.integers(0, 120), "at")] = data.draw(st.integers(0, 255), "byte")
    tiny.write_ct2(tmp_path, bytes(content))
    with suppress(RepositoryError):
        check_target(read_model("spec.model.target", tmp_path))


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
def test_single_precision_equals_its_own_rounding_to_half_precision(tmp_path_factory: Any, values: list[float]) -> None:
    folder = tmp_path_factory.mktemp("rounding")
    with np.errstate(over="ignore"):
        halves = np.array(values, "float32").astype("float16")
    save_file({"x": np.array(values, "float32")}, folder / "fine.safetensors")
    save_file({"x": halves}, folder / "coarse.safetensors")
    fine, coarse = (read_safetensors(folder / f"{name}.safetensors")["x"] for name in ("fine", "coarse"))
    assert equal(fine, coarse)
    assert equal(coarse, fine)
    flipped = halves.copy()
    flipped.view("uint16")[0] ^= 1
    save_file({"x": flipped}, folder / "other.safetensors")
    assert not equal(fine, read_safetensors(folder / "other.safetensors")["x"])


ROUNDED = [(0x3F808000, 0x3F80), (0x3F818000, 0x3F82), (0x3F808001, 0x3F81), (0x3F807FFF, 0x3F80)]


@pytest.mark.parametrize(("bits", "rounded"), ROUNDED)
def test_single_precision_rounds_to_bfloat16_to_nearest_ties_to_even(tmp_path: Path, bits: int, rounded: int) -> None:
    (tmp_path / "fine").write_bytes(struct.pack("<I", bits))
    (tmp_path / "coarse").write_bytes(struct.pack("<H", rounded))
    assert equal(TensorRange("F32", (1,), tmp_path / "fine", 0), TensorRange("BF16", (1,), tmp_path / "coarse", 0))
