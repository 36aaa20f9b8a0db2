"""Who takes part, by the names that `--peers` takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.engine.child import Child
from benchmarks.engine.speech import PACKAGES
from examples.models.assemble import FOLDER

Way = Literal["one at a time", "static batch", "in flight"]


@dataclass(frozen=True)
class Entrant:
    """A row of the tables."""

    title: str
    way: Way  # how it takes windows of several clients
    factory: str
    arguments: Mapping[str, Any]
    exact_to: str | None = None  # whose tokens it must give, token for token
    once: bool = False  # measured in the first round alone


def _hugging_face(title: str, way: Way, *, assisted: bool, exact_to: str | None = None) -> Entrant:
    arguments = {"weights": "WEIGHTS", "batched": way == "static batch", "assisted": assisted}
    return Entrant(title, way, "benchmarks.engine.peers:HuggingFace", arguments, exact_to)


def _faster_whisper(title: str, way: Way, compute_type: str) -> Entrant:
    arguments = {"model": str(FOLDER), "compute_type": compute_type, "batched": way == "static batch"}
    return Entrant(title, way, "benchmarks.engine.peers:FasterWhisper", arguments)


def _ours(title: str, exact_to: str | None, *, once: bool = False, **arguments: Any) -> Entrant:
    return Entrant(title, "in flight", "benchmarks.engine.ours:Ours", {"weights": "WEIGHTS", **arguments}, exact_to, once)


LIMITED: Final = ("ours", "ours-alone")  # held against what the machine can do
ENTRANTS: Final[Mapping[str, Entrant]] = {
    "hf": _hugging_face("Hugging Face greedy", "one at a time", assisted=False),
    "ours-alone": _ours("ours, no draft", "hf", draft=False),
    "ours": _ours("ours", "ours-alone", draft=True),
    "ours-triton": Entrant(
        "ours through Triton", "in flight", "benchmarks.engine.served:Served", {"folder": "FOLDER"}, "ours-alone"
    ),
    "hf-batch": _hugging_face("Hugging Face greedy, static batch", "static batch", assisted=False),
    "hf-assisted": _hugging_face("Hugging Face assisted by our draft", "one at a time", assisted=True),
    "fw": _faster_whisper("faster-whisper", "one at a time", "float32"),
    "fw-batch": _faster_whisper("faster-whisper, batched pipeline", "static batch", "float32"),
    "openai": Entrant(
        "openai-whisper", "one at a time", "benchmarks.engine.peers:OpenAIWhisper",
        {"weights": "WEIGHTS", "packages": str(PACKAGES)}, once=True,
    ),
    "fw-int8": _faster_whisper("faster-whisper int8", "one at a time", "int8"),
    "fw-int8-batch": _faster_whisper("faster-whisper int8, batched pipeline", "static batch", "int8"),
    "ours-int8-alone": _ours("ours int8, no draft", None, draft=False, precision="int8", once=True),
    "ours-int8": _ours("ours int8", "ours-int8-alone", draft=True, precision="int8"),
    "ours-wrong": _ours("ours, a draft that is always wrong", "ours-alone", draft=True, wrong=True),
    "ours-files": Entrant("ours", "in flight", "benchmarks.engine.ours:OursForFiles", {"weights": "WEIGHTS"}),
}  # fmt: skip


def start(name: str, weights: Path, folder: Path) -> Child:
    """Start one in a process of its own; raises ChildError where it does not come up."""
    entrant = ENTRANTS[name]
    places = {"WEIGHTS": str(weights), "FOLDER": str(folder)}
    arguments = {key: places.get(value, value) if isinstance(value, str) else value for key, value in entrant.arguments.items()}
    return Child(name, entrant.factory, arguments)
