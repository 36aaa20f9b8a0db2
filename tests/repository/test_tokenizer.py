"""The first merge of a byte-pair encoding comes back where a tokenizer file lacks it, and nothing else of a file changes."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from transcriber_repository.convert import convert
from transcriber_repository.formats.detect import read_model
from transcriber_repository.formats.tokenizer import with_first_merge
from transcriber_repository.progress import silent

MERGES = [("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e")]
TOKENS = [*sorted(ByteLevel.alphabet()), *("".join(merge) for merge in MERGES)]


def tokenizer_json(merges: list[tuple[str, str]], *, as_text: bool = False) -> bytes:
    tokenizer = Tokenizer(BPE({token: index for index, token in enumerate(TOKENS)}, merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    content = json.loads(tokenizer.to_str())
    if as_text:
        content["model"]["merges"] = [" ".join(merge) for merge in merges]
    return json.dumps(content).encode()


def tokens(content: bytes, text: str) -> list[str]:
    return Tokenizer.from_str(content.decode()).encode(text).tokens


@pytest.mark.parametrize("as_text", [False, True], ids=["merges as pairs", "merges as text"])
def test_a_word_is_one_token_again_where_the_first_merge_was_missing(as_text: bool) -> None:
    given = tokenizer_json(MERGES[1:], as_text=as_text)
    assert tokens(given, " the") == ["Ġ", "t", "h", "e"]
    mended = with_first_merge(given)
    assert tokens(mended, " the") == ["Ġthe"]
    assert json.loads(mended) == json.loads(tokenizer_json(MERGES, as_text=as_text))


@pytest.mark.parametrize("as_text", [False, True], ids=["merges as pairs", "merges as text"])
def test_a_file_with_all_its_merges_stays_as_it_is_byte_for_byte(as_text: bool) -> None:
    whole = tokenizer_json(MERGES, as_text=as_text)
    assert with_first_merge(whole) == whole


def test_a_tokenizer_without_merges_is_written_into_the_repository_as_it_is(target: Path, tmp_path: Path) -> None:
    convert(read_model("spec.model.target", target), None, tmp_path / "weights", silent)
    assert (tmp_path / "weights" / "tokenizer.json").read_bytes() == (target / "tokenizer.json").read_bytes()


def test_an_encoding_that_learnt_nothing_right_after_its_bytes_is_left_alone() -> None:
    shifted = json.loads(tokenizer_json(MERGES[1:]))
    shifted["model"]["vocab"] |= {"Ġt": len(TOKENS), "<unused>": 256}
    content = json.dumps(shifted).encode()
    assert with_first_merge(content) == content
