"""Checks that a target is a whole Whisper and that a draft may speak for it."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from tokenizers import Tokenizer

from transcriber_engine.model_config import ModelConfig
from transcriber_engine.tokens import WhisperTokenizer
from transcriber_repository.errors import Reason, RepositoryError
from transcriber_repository.formats.layout import SourceModel, decoder_shapes, differences, encoder_shapes
from transcriber_repository.formats.tensors import TensorRange, equal

TARGET_FIELD: Final = "spec.model.target"
DRAFT_FIELD: Final = "spec.model.draft"
DEFAULTS: Final = {"max_source_positions": 1500, "max_target_positions": 448}
TIMESTAMP_TOKENS: Final = 1501  # 0.00 s to 30.00 s in steps of 0.02 s, the last tokens of every Whisper vocabulary
TIMESTAMP: Final = re.compile(r"<\|\d+\.\d\d\|>")
# What the two must have in common: (name, what it is).
SHARED_DIMENSIONS: Final = (
    ("num_mel_bins", "mel bins"),
    ("d_model", "d_model"),
    ("decoder_attention_heads", "decoder attention heads"),
    ("decoder_ffn_dim", "decoder feed-forward width"),
    ("max_target_positions", "max_target_positions"),
)
VOCABULARIES: Final = {51864: "an English-only Whisper", 51865: "a multilingual Whisper", 51866: "large-v3 or its turbo"}


def check_target(target: SourceModel) -> ModelConfig:
    """Check dimensions, tensors and tokenizer of a target, and return its config; raises RepositoryError."""
    dimensions = DEFAULTS | dict(target.dimensions)
    try:
        config = ModelConfig(
            **dimensions,
            suppress_tokens=target.suppress_tokens,
            begin_suppress_tokens=target.begin_suppress_tokens,
            alignment_heads=_own_heads(target, dimensions),
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _unsupported(target, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for problem in differences(encoder_shapes(dimensions) | decoder_shapes(dimensions), target.tensors):
        raise _unsupported(target, problem)
    for name, heads in (("encoder", config.encoder_attention_heads), ("decoder", config.decoder_attention_heads)):
        if config.d_model % heads:
            raise _unsupported(target, f"d_model {config.d_model} does not divide by {heads} {name} attention heads")
    for token in target.suppress_tokens + target.begin_suppress_tokens:
        if token >= config.vocab_size:
            raise _unsupported(target, f"suppressed token {token} is beyond the vocabulary of {config.vocab_size}")
    _check_tokenizer(target, config.vocab_size)
    return config


def _own_heads(target: SourceModel, dimensions: Mapping[str, int]) -> tuple[tuple[int, int], ...]:
    """Return the alignment heads; none where some are beyond the model's, as in a distilled model with its teacher's config."""
    layers, heads = dimensions.get("decoder_layers", 0), dimensions.get("decoder_attention_heads", 0)
    are_own = all(layer < layers and head < heads for layer, head in target.alignment_heads)
    return target.alignment_heads if are_own else ()


def check_pair(target: SourceModel, draft: SourceModel) -> dict[str, TensorRange]:
    """Check a draft against its (checked) target, and return the tensors that the draft must bring; raises RepositoryError."""
    theirs, ours = DEFAULTS | dict(draft.dimensions), DEFAULTS | dict(target.dimensions)
    for name in ("vocab_size", "decoder_layers", *(name for name, _ in SHARED_DIMENSIONS)):
        if name not in theirs:
            raise _incompatible(f"{draft.file}: config.json has no {name}")
    _check_vocabulary(theirs["vocab_size"], ours["vocab_size"])
    for name, words in SHARED_DIMENSIONS:
        if theirs[name] != ours[name]:
            raise _incompatible(
                f"has {theirs[name]} {words}, the target has {ours[name]}: choose a draft distilled from this target"
            )
    _check_same_tokenizer(target.tokenizer, draft.tokenizer)
    if theirs["decoder_layers"] >= ours["decoder_layers"]:
        raise _incompatible(
            f"has {theirs['decoder_layers']} decoder layers, the target {ours['decoder_layers']}: a draft needs fewer"
        )
    _check_encoder(target, draft)
    return _own_tensors(target, draft, theirs)


def _check_vocabulary(theirs: int, ours: int) -> None:
    if theirs != ours:
        known = [f"{size} is {VOCABULARIES[size]}" for size in (theirs, ours) if size in VOCABULARIES]
        explained = f" ({'; '.join(known)})" if known else ""
        raise _incompatible(
            f"has a vocabulary of {theirs} tokens, the target {ours}: {theirs} - {ours} = {theirs - ours}{explained}; "
            "the same id would mean other words, so choose a draft distilled from this target"
        )


def _check_same_tokenizer(target: Path | None, draft: Path | None) -> None:
    if target is None or draft is None:
        return
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (target, draft)]
    if hashes[0] != hashes[1] and _vocabulary(target) != _vocabulary(draft):
        raise _incompatible("tokenizer.json has another vocabulary than the target's: choose a draft distilled from this target")


def _vocabulary(path: Path) -> dict[str, int]:
    # Some files list the timestamps and some leave them out; their ids follow from the rest.
    tokens = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    return {token: index for token, index in tokens.items() if TIMESTAMP.fullmatch(token) is None}


def _check_encoder(target: SourceModel, draft: SourceModel) -> None:
    theirs, ours = draft.with_prefix("model.encoder."), target.with_prefix("model.encoder.")
    if not theirs and _left_to_target("model.encoder.conv1.weight", draft):
        return
    for name in sorted(set(theirs) | set(ours)):
        if name not in theirs or name not in ours or not equal(theirs[name], ours[name]):
            raise _incompatible(
                f"{draft.file}: encoder tensor {name!r} is not the target's: drafts share the target's encoder, "
                "and separate encoders are not supported"
            )


def _own_tensors(target: SourceModel, draft: SourceModel, dimensions: Mapping[str, int]) -> dict[str, TensorRange]:
    expected, decoder = decoder_shapes(dimensions), draft.with_prefix("model.decoder.")
    left_out = {name for name in expected if name not in decoder and _left_to_target(name, draft)}
    stray = {name: tensor for name, tensor in draft.tensors.items() if not name.startswith("model.encoder.")}
    for problem in differences({name: shape for name, shape in expected.items() if name not in left_out}, stray):
        raise _incompatible(f"{draft.file}: {problem}")
    # Layers are the draft's own even where one tensor happens to be equal: they stand at other depths.
    return {name: tensor for name, tensor in decoder.items() if ".layers." in name or not equal(tensor, target.tensors[name])}


def _left_to_target(name: str, draft: SourceModel) -> bool:
    return ".decoder.layers." not in name and any(name.startswith(prefix) for prefix in draft.shares)


def _check_tokenizer(target: SourceModel, vocab_size: int) -> None:
    if target.tokenizer is None:
        raise RepositoryError(Reason.UNSUPPORTED_FORMAT, f"{TARGET_FIELD}.files", "lacks tokenizer.json: add it")
    try:
        tokenizer = WhisperTokenizer.read(target.tokenizer)
    except Exception as error:  # the tokenizers library raises plain Exception for a file it cannot read
        raise RepositoryError(
            Reason.UNSUPPORTED_FORMAT, f"{TARGET_FIELD}.files 'tokenizer.json'", f"is not a Whisper tokenizer: {error}"
        ) from None
    needed = tokenizer.timestamp_begin + TIMESTAMP_TOKENS
    if needed != vocab_size:
        raise RepositoryError(
            Reason.UNSUPPORTED_FORMAT,
            f"{TARGET_FIELD}.files 'tokenizer.json'",
            f"counts {needed} tokens ({tokenizer.timestamp_begin} + {TIMESTAMP_TOKENS} timestamps), {target.file} has "
            f"{vocab_size}: give the tokenizer that belongs to these weights",
        )


def _unsupported(model: SourceModel, message: str) -> RepositoryError:
    return RepositoryError(Reason.UNSUPPORTED_FORMAT, f"{TARGET_FIELD}.files {model.file!r}", message)


def _incompatible(message: str) -> RepositoryError:
    return RepositoryError(Reason.DRAFT_INCOMPATIBLE, DRAFT_FIELD, message)
