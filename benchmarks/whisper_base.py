"""Whisper-base and its distilled draft, as a build makes weights of them."""

from pathlib import Path

from benchmarks.recordings import ROOT

from transcriber_repository.convert import convert
from transcriber_repository.formats.detect import read_model
from transcriber_repository.progress import silent

DRAFT = ROOT / "examples" / "models" / "whisper-base-draft"


def build_weights(source: Path, weights: Path) -> Path:
    """Convert whisper-base, assembled in `source` for CTranslate2, and its draft into the folder `weights`, and return that."""
    convert(read_model("target", source), read_model("draft", DRAFT), weights, silent)
    return weights
