"""Writes the weights folder of a repository from checked models: canonical names, the source's own precision."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from transcriber_engine.model_config import DRAFT_FILE, MODEL_CONFIG_FILE, TARGET_FILE, TOKENIZER_FILE, ModelConfig
from transcriber_repository.disk import write_file
from transcriber_repository.formats.layout import SourceModel
from transcriber_repository.formats.tensors import TensorRange, write_safetensors
from transcriber_repository.formats.tokenizer import with_first_merge
from transcriber_repository.pair import check_pair, check_target
from transcriber_repository.progress import Meter, Reporter

WEIGHTS_DIR: Final = "weights"


def convert(target: SourceModel, draft: SourceModel | None, weights_dir: Path, report: Reporter) -> ModelConfig:
    """Check the pair and write `model.json`, `tokenizer.json` and tensors into a new folder; raises RepositoryError, OSError."""
    config = check_target(target)
    own: dict[str, TensorRange] = {}
    if draft is not None:
        own = check_pair(target, draft)
        config = config.model_copy(update={"draft_decoder_layers": draft.dimensions["decoder_layers"]})
    weights_dir.mkdir(parents=True)
    total = _bytes(target.tensors) + _bytes(own)
    with Meter("convert", total, report) as meter:
        write_safetensors(weights_dir / TARGET_FILE, target.tensors, meter.advance)
        if draft is not None:
            write_safetensors(weights_dir / DRAFT_FILE, own, meter.advance)
    write_file(weights_dir / MODEL_CONFIG_FILE, [config.model_dump_json(indent=1).encode()])
    if target.tokenizer is not None:
        write_file(weights_dir / TOKENIZER_FILE, [with_first_merge(target.tokenizer.read_bytes())])
    return config


def _bytes(tensors: Mapping[str, TensorRange]) -> int:
    return sum(tensor.byte_count for tensor in tensors.values())
