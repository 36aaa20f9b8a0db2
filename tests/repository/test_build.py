"""Whole builds of a tiny pair: what lies there afterwards, what is done twice and what is left when it fails."""

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tests.repository import tiny
from transcriber_engine.model_config import ModelConfig
from transcriber_engine.settings import EngineSettings
from transcriber_repository import adapters_dir
from transcriber_repository.adapters import ADAPTERS
from transcriber_repository.build import build
from transcriber_repository.errors import EXIT_CODES, Reason, RepositoryError
from transcriber_repository.manifest import is_ready
from transcriber_repository.progress import Progress
from transcriber_repository.publish import collect
from transcriber_repository.request import engine_settings
from transcriber_repository.sources.remote import Access
from transcriber_repository.verify import verify

Build = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def built(target: Path, draft: Path, adapters: Path, root: Path) -> Build:
    def run(**decoding: Any) -> Path:
        return build(tiny.spec(tiny.source(target), tiny.source(draft), **decoding), root, adapters=adapters)

    return run


def leftovers(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name != ".lock" and not is_ready(path))


def test_built_repository_has_every_file_of_the_contract_and_verifies(built: Build, root: Path) -> None:
    path = built()
    manifest = verify(path)
    names = {file.path for file in manifest.files}
    models = {f"models/{name}/config.pbtxt" for name in (*ADAPTERS, "whisper")} | {f"models/{name}/1/model.py" for name in ADAPTERS}
    weights = {f"weights/{name}" for name in ("model.json", "tokenizer.json", "target.safetensors", "draft.safetensors")}
    assert names == models | weights | {"engine.json"}
    assert (path / "models" / "whisper" / "1").is_dir()
    assert path.name == f"sha256-{manifest.digest}"
    assert leftovers(root) == []


def test_engine_reads_what_the_build_wrote(built: Build) -> None:
    path = built(language="de", maxDraftTokens=4)
    settings = EngineSettings.read(path / "engine.json")
    config = ModelConfig.read(path / "weights")
    assert (settings.language, settings.draft, settings.max_draft_tokens, settings.slots) == ("de", "model", 4, 4)
    assert (config.d_model, config.draft_decoder_layers, config.suppress_tokens) == (8, 1, (1, 2))


def test_second_build_of_the_same_spec_reads_no_source(built: Build, target: Path) -> None:
    path = built()
    spec = tiny.spec(tiny.source(target), tiny.source(target.parent / "draft"))
    for file in target.iterdir():
        file.unlink()
    stamp = (path / "READY").stat().st_mtime_ns
    assert build(spec, path.parent, adapters=target.parent / "adapters") == path
    assert (path / "READY").stat().st_mtime_ns == stamp


def test_each_thing_that_changes_a_file_changes_the_digest(built: Build, target: Path, draft: Path, adapters: Path) -> None:
    names = [built().name, built(language="de").name, built(draftSource="PromptLookup").name]
    (adapters / "log_mel" / "1" / "model.py").write_text("changed\n")
    names.append(built().name)
    tiny.write_draft(draft, tiny.draft_tensors(seed=3))
    names.append(built().name)
    assert len(set(names)) == len(names)


def test_draft_that_is_not_used_is_not_fetched(target: Path, adapters: Path, root: Path) -> None:
    absent = {"uri": "file:///nowhere", "files": [{"path": "model.safetensors", "sha256": "0" * 64}]}
    path = build(tiny.spec(tiny.source(target), absent, draftSource="None"), root, adapters=adapters)
    assert not (path / "weights" / "draft.safetensors").exists()
    assert ModelConfig.read(path / "weights").draft_decoder_layers == 0


def test_target_and_draft_in_ctranslate2_and_on_a_claim_build_too(target: Path, adapters: Path, root: Path, tmp_path: Path) -> None:
    ct2 = tiny.source(tiny.write_ct2(tmp_path / "claim" / "ct2")) | {"uri": "pvc://models/ct2"}
    access = Access(volumes={"models": tmp_path / "claim"})
    from_ct2 = build(tiny.spec(ct2), root, access, adapters=adapters)
    from_hf = build(tiny.spec(tiny.source(target)), root, adapters=adapters)
    assert (from_ct2 / "weights/target.safetensors").read_bytes() == (from_hf / "weights/target.safetensors").read_bytes()


def test_rendered_configs_are_tritons_own_with_the_contracts_shapes(built: Build) -> None:
    configs = {}
    for path in (built() / "models").glob("*/config.pbtxt"):
        configs[path.parent.name] = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    type_name = model_config_pb2.DataType.Name
    shapes = {
        name: {tensor.name: (type_name(tensor.data_type), list(tensor.dims)) for tensor in (*config.input, *config.output)}
        for name, config in configs.items()
    }
    text, pcm = ("TYPE_STRING", [1]), ("TYPE_FP32", [-1])
    mel, hidden, tokens = ("TYPE_FP32", [4, 3000]), ("TYPE_FP32", [12, 8]), ("TYPE_INT32", [-1])
    assert shapes == {
        "transcribe": {"AUDIO": text, "PCM": pcm, "OPTIONS": text, "RESULT": text},
        "whisper": {"PCM": pcm, "OPTIONS": text, "TOKENS": tokens, "RESULT": text},
        "log_mel": {"PCM": pcm, "MEL": mel},
        "whisper_encoder": {"MEL": mel, "HIDDEN": hidden},
        "whisper_decoder": {"HIDDEN": hidden, "OPTIONS": text, "TOKENS": tokens, "RESULT": text},
    }
    assert [tensor.optional for tensor in configs["transcribe"].input] == [True, True, True]
    assert {config.max_batch_size for config in configs.values()} == {0}
    assert [step.model_name for step in configs["whisper"].ensemble_scheduling.step] == list(ADAPTERS[1:])


def test_device_moves_encoder_and_decoder_to_the_gpu(target: Path, adapters: Path, root: Path) -> None:
    document = tiny.document(tiny.source(target))["spec"]
    on_gpu = {"runtime": {"device": "GPU"}, "model": document["model"] | {"precision": "BFloat16"}}
    spec = tiny.Spec.model_validate(document | on_gpu)
    path = build(spec, root, adapters=adapters)
    kinds = {name: "KIND_GPU" in (path / "models" / name / "config.pbtxt").read_text() for name in (*ADAPTERS, "whisper")}
    assert [name for name, gpu in kinds.items() if gpu] == ["whisper_encoder", "whisper_decoder"]
    settings = EngineSettings.read(path / "engine.json")
    assert (settings.device, settings.precision) == ("cuda", "bfloat16")


def test_eight_bits_are_a_precision_of_the_cpu(target: Path) -> None:
    document = tiny.document(tiny.source(target))["spec"]
    spec = tiny.Spec.model_validate(document | {"model": document["model"] | {"precision": "Int8"}})
    settings = engine_settings(spec)
    assert (settings.device, settings.precision) == ("cpu", "int8")


@pytest.mark.parametrize(
    ("decoding", "expected"),
    [
        ({}, {"language": None, "draft": "none", "task": "transcribe", "timestamps": "segment", "chunk_seconds": 30}),
        ({"language": "de", "task": "Translate"}, {"language": "de", "task": "translate"}),
        ({"timestamps": "None", "voiceActivityDetection": "None"}, {"timestamps": "none", "voice_activity_detection": "none"}),
        ({"timestamps": "Word", "temperatureFallback": True}, {"timestamps": "word", "temperature_fallback": True}),
        ({"hallucinationGuards": True}, {"hallucination_guards": True, "temperature_fallback": False}),
        ({"draftSource": "PromptLookup", "maxDraftTokens": 3}, {"draft": "prompt_lookup", "max_draft_tokens": 3}),
    ],
)
def test_spec_maps_onto_engine_settings(target: Path, decoding: dict[str, Any], expected: dict[str, Any]) -> None:
    settings = engine_settings(tiny.spec(tiny.source(target), **decoding))
    assert settings.model_dump(include=set(expected)) == expected


def test_incompatible_draft_leaves_nothing(target: Path, tmp_path: Path, adapters: Path, root: Path) -> None:
    other = tiny.write_hf(tmp_path / "other", dimensions=tiny.DIMENSIONS | {"num_mel_bins": 8, "decoder_layers": 1})
    with pytest.raises(RepositoryError, match="8 mel bins"):
        build(tiny.spec(tiny.source(target), tiny.source(other)), root, adapters=adapters)
    assert list(root.iterdir()) == [root / ".lock"]


def test_missing_adapter_is_named(target: Path, root: Path, adapters: Path) -> None:
    (adapters / "log_mel" / "1" / "model.py").unlink()
    with pytest.raises(RepositoryError, match=r"log_mel/1/model.py: the Triton model is missing"):
        build(tiny.spec(tiny.source(target)), root, adapters=adapters)


def test_adapters_lie_beside_the_package_in_a_checkout() -> None:
    assert adapters_dir().name == "triton"


def test_file_size_limit_as_of_a_full_disk_leaves_nothing_and_says_so(built: Build, root: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(RepositoryError, match=r"File too large: nothing was published; free or enlarge the volume") as error:
            built()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert error.value.reason is Reason.STORAGE_FAILED
    assert list(root.iterdir()) == [root / ".lock"]
    assert verify(built())


def test_stages_are_reported_with_all_their_bytes(target: Path, adapters: Path, root: Path) -> None:
    events: list[Progress] = []
    build(tiny.spec(tiny.source(target)), root, report=events.append, adapters=adapters)
    ends = [event for event in events if event.finished]
    assert [event.stage for event in ends] == ["fetch target", "convert", "publish"]
    assert all(event.bytes_total is not None and event.bytes_done >= event.bytes_total for event in ends)


def test_collect_keeps_what_is_named_and_removes_the_rest(built: Build, root: Path) -> None:
    old, previous, current = built(language="en"), built(language="de"), built()
    (root / f"sha256-{'0' * 64}").mkdir()  # renamed, but its builder died before READY
    assert collect(root, {previous.name, f"sha256:{current.name.removeprefix('sha256-')}"}) == [old.name.removeprefix("sha256-")]
    assert {path.name for path in root.iterdir()} == {".lock", previous.name, current.name}
    with pytest.raises(ValueError, match="at least one digest"):
        collect(root, frozenset())


def command(*arguments: str, **kwargs: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "transcriber_repository", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        **kwargs,
    )


def run(*arguments: str) -> tuple[int, str, str]:
    process = command(*arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def write_spec(folder: Path, target: dict[str, Any]) -> Path:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(tiny.document(target)))
    return path


def test_commands_build_verify_and_collect(target: Path, tmp_path: Path, root: Path) -> None:
    source = tiny.source(target) | {"uri": "pvc://models/target"}
    arguments = ("build", "--spec", str(write_spec(tmp_path, source)), "--root", str(root))
    code, out, err = run(*arguments, "--volume", f"models={tmp_path}")
    assert code == 0, err
    assert "\r" not in err
    assert run("verify", out.strip())[:2] == (0, f"{out.strip()}: 13 files as published\n")
    assert run("collect", "--root", str(root), "--keep", "0" * 64)[:2] == (0, f"removed {Path(out.strip()).name}\n")


def test_command_that_fails_says_why_in_one_line_and_by_its_exit_code(target: Path, tmp_path: Path, root: Path) -> None:
    source = tiny.source(target) | {"uri": "pvc://models/target"}
    code, out, err = run("build", "--spec", str(write_spec(tmp_path, source)), "--root", str(root))
    assert (code, out) == (EXIT_CODES[Reason.INVALID_SPEC], "")
    assert len(err.splitlines()) == 1
    assert "InvalidSpec: spec.model.target.uri: no folder is known for claim 'models'" in err


def test_command_refuses_a_spec_that_the_api_refuses(target: Path, tmp_path: Path, root: Path) -> None:
    document = tiny.document({"uri": "hf://acme/whisper", "revision": "main"})
    (tmp_path / "spec.json").write_text(json.dumps(document))
    code, _, err = run("build", "--spec", str(tmp_path / "spec.json"), "--root", str(root))
    assert code == EXIT_CODES[Reason.INVALID_SPEC]
    assert "revision must be a 40-hex commit" in err


def test_terminated_build_ends_at_once_and_leaves_nothing_half(target: Path, tmp_path: Path, root: Path) -> None:
    root.mkdir()
    with (root / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = command("build", "--spec", str(write_spec(tmp_path, tiny.source(target))), "--root", str(root))
        assert process.stderr is not None
        assert "another build holds the folder" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; nothing was published" in err
    assert list(root.iterdir()) == [root / ".lock"]
