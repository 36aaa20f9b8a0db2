"""Real replicas of whisper-base under constant load: what changes of the spec, good and bad, mean to those who call."""

import asyncio
import copy
import hashlib
import json
import shutil
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import pytest_asyncio
import yaml
from examples.models.assemble import assemble

from tests.cluster.live import RESOURCE, Manifest, Objects, condition, is_ready
from tests.cluster.load import Load
from tests.cluster.quick_pods import Parts
from tests.rig.bridge_objects import bridge_namespace, make_claim
from tests.rig.cluster import ROOT, OperatorProcess
from tests.rig.kwok import fake_node
from tests.rig.pod_bridge import PodBridge
from transcriber_api.conditions import Reason
from transcriber_exporter.canary import words

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]
Record = Callable[[str, object], None]
NAME: Final = "whisper-base"
NAMESPACE: Final = "served"
NODE: Final = "node-of-served"
CLIPS: Final = ROOT / "tests" / "audio"
RECORDINGS: Final = ("en-quick-brown-fox.flac", "en-hello-world.flac")
CLIENTS: Final = 4
START_SECONDS: Final = 480.0  # of a replica, on a machine that is busy with other things too
POLL_SECONDS: Final = 0.5
EMBEDDING: Final = b"decoder/embeddings/weight\0"


@dataclass
class Served:
    """whisper-base with a draft, served by one replica; `spec` is what it serves when a test begins."""

    parts: Parts
    objects: Objects
    bridge: PodBridge
    models: Path  # the folder behind a claim: whisper-base and its draft
    mistrained: Path  # the folder behind a claim, for a model of no use
    spec: dict[str, Any]
    expected: dict[str, str]  # text by recording
    start_seconds: float  # that a replica took on this machine, from its creation until it was ready

    async def apply(self, spec: dict[str, Any]) -> None:
        metadata = {"name": NAME, "namespace": NAMESPACE}
        document = {"apiVersion": "serving.transcriber.dev/v1alpha1", "kind": RESOURCE, "metadata": metadata, "spec": spec}
        written = await self.parts.kubectl("apply", "--server-side", "-f", "-", "-o", "json", document=yaml.safe_dump(document))
        metadata = json.loads(written)["metadata"]
        await self.objects.seen(RESOURCE, metadata["uid"], int(metadata["resourceVersion"]))

    async def settled(self) -> Manifest:
        return await self.objects.settled(NAME, seconds=START_SECONDS)

    async def told(self, type_: str, reason: Reason) -> Manifest:
        return await self.objects.told(NAME, type_, reason, START_SECONDS)

    def load(self, clients: int) -> Load:
        return Load(self.addresses, recordings(), clients)

    def addresses(self) -> list[str]:
        return [pod["status"]["podIP"] for pod in self.objects.all("Pod") if serves(pod) and is_ready(pod)]

    def replicas(self) -> set[str]:
        """The uids of the serving pods that are ready."""
        return {pod["metadata"]["uid"] for pod in self.objects.all("Pod") if serves(pod) and is_ready(pod)}

    async def heard_other_words(self, pod: Manifest) -> None:
        """Wait until the exporter of a pod says so in its log, which announces nothing."""
        log = self.bridge.log_file(NAMESPACE, pod["metadata"]["name"], "exporter")
        async with asyncio.timeout(START_SECONDS):
            while not log.exists() or "the canary's transcript has" not in log.read_text(encoding="utf-8"):
                await asyncio.sleep(POLL_SECONDS)

    def newcomers(self) -> list[Manifest]:
        """The serving pods that run and are not ready."""
        return [pod for pod in self.objects.all("Pod") if serves(pod) and "podIP" in pod["status"] and not is_ready(pod)]

    def template(self) -> Any:
        return self.objects.get("Deployment", f"{NAME}-cpu")["spec"]["template"]


def serves(pod: Manifest) -> bool:
    return bool(pod["metadata"]["labels"]["app.kubernetes.io/component"] == "serving")


def recordings() -> dict[str, bytes]:
    return {name: (CLIPS / name).read_bytes() for name in RECORDINGS}


def example() -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "examples" / "cluster" / "whisper-base.yaml").read_text(encoding="utf-8"))
    spec: dict[str, Any] = document["spec"]
    return spec


def changed(spec: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return a copy that is changed."""
    copied = copy.deepcopy(spec)
    change(copied)
    return copied


@asynccontextmanager
async def served_in(parts: Parts, folder: Path) -> AsyncIterator[Served]:
    """Serve whisper-base by the pod bridge until left."""
    plane = parts.plane
    models = folder / "models"

    def prepare() -> None:
        assemble(models / "whisper-base")
        shutil.copytree(ROOT / "examples" / "models" / "whisper-base-draft", models / "whisper-base-draft")
        plane.start_kwok()
        plane.apply(fake_node(NODE, tainted=False))
        plane.kubectl("create", "namespace", NAMESPACE)
        plane.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={NAMESPACE}", "--timeout=30s")
        bridge_namespace(plane, NAMESPACE)
        for claim, place in (("models", models), ("mistrained", folder / "mistrained"), ("transcriber-repositories", folder / "r")):
            make_claim(plane, NAMESPACE, claim, place)

    await asyncio.to_thread(prepare)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(parts.kubectl, "delete", f"node/{NODE}")  # what comes next brings its own
        bridge = await stack.enter_async_context(PodBridge(plane.kubeconfig, folder / "pods", namespace=NAMESPACE))
        objects = await stack.enter_async_context(Objects(parts.api, NAMESPACE))
        operator = await asyncio.to_thread(OperatorProcess, plane)
        stack.push_async_callback(asyncio.to_thread, operator.stop)
        await asyncio.to_thread(operator.start)
        served = Served(parts, objects, bridge, models, folder / "mistrained", example(), {}, 0.0)
        await served.apply(served.spec)
        await served.settled()
        [pod] = [pod for pod in objects.all("Pod") if serves(pod)]
        seen = [change.at for change in objects.changes if change.uid == pod["metadata"]["uid"]]
        async with Load(served.addresses, recordings(), 0) as load:
            for name in RECORDINGS:
                served.expected[name] = await load.transcribe(name, pod["status"]["podIP"])
        served.start_seconds = seen[-1] - seen[0]
        yield served
        bridge.check()
        await parts.kubectl("delete", f"td/{NAME}", f"--namespace={NAMESPACE}")
        await objects.until("no pod left", lambda: not objects.all("Pod"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(triton: object, parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served_in(parts, tmp_path_factory.mktemp("served")) as entered:
        yield entered


def mistrain(model: Path, folder: Path) -> list[dict[str, str]]:
    """Write `model` with its token embeddings in reverse order, and return its files: well formed, pinned, and of no use."""
    shutil.copytree(model, folder)
    content = bytearray((folder / "model.bin").read_bytes())
    at = content.index(EMBEDDING) + len(EMBEDDING)
    rank = content[at]
    *shape, _, size = struct.unpack_from(f"<{rank}IBI", content, at + 1)
    begin = at + 1 + 4 * rank + 1 + 4
    table = np.frombuffer(bytes(content[begin : begin + size]), np.uint8).reshape(shape[0], -1)
    content[begin : begin + size] = table[::-1].tobytes()
    (folder / "model.bin").write_bytes(content)
    return [{"path": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in sorted(folder.iterdir())]


def mistrained(spec: dict[str, Any], files: list[dict[str, str]], startup_timeout_seconds: int) -> dict[str, Any]:
    copied = copy.deepcopy(spec)
    copied["model"]["target"] = {"uri": "pvc://mistrained/whisper-base", "files": files}
    copied["runtime"]["startupTimeoutSeconds"] = startup_timeout_seconds
    return copied


async def test_it_transcribes(served: Served) -> None:
    spoken = json.loads((CLIPS / "transcripts.json").read_text(encoding="utf-8"))
    assert {name: words(text) for name, text in served.expected.items()} == {
        name: words(spoken[name]["text"]) for name in RECORDINGS
    }


async def test_a_change_of_the_draft_costs_no_call_and_changes_no_word(served: Served, record_property: Record) -> None:
    clock = asyncio.get_running_loop().time
    before = served.objects.get(RESOURCE, NAME)["status"]["repository"]["digest"]
    async with served.load(CLIENTS) as load:
        await load.answered(1)
        began_at = clock()
        served.spec = changed(served.spec, lambda spec: spec["decoding"].update(draftSource="PromptLookup"))
        await served.apply(served.spec)
        after = (await served.settled())["status"]["repository"]["digest"]
        record_property("new_draft_ready_after_seconds", round(clock() - began_at, 1))
        await load.answered(CLIENTS)
    record_property("load_during_change", load.figures())
    assert load.failed() == []
    assert load.wrong(served.expected) == []
    assert load.figures()["addresses"] == 2
    assert after != before


async def test_a_build_that_fails_never_touches_what_serves(served: Served, record_property: Record) -> None:
    clock = asyncio.get_running_loop().time
    replicas, template = served.replicas(), served.template()
    async with served.load(1) as load:
        await load.answered(1)
        began_at = clock()
        await served.apply(changed(served.spec, lambda spec: spec["model"]["target"]["files"][0].update(sha256="0" * 64)))
        built = await served.told("RepositoryBuilt", Reason.CHECKSUM_MISMATCH)
        record_property("failed_build_told_after_seconds", round(clock() - began_at, 1))
        record_property("failed_build_message", built["message"])
        await load.answered(1)
        assert (served.replicas(), served.template()) == (replicas, template)
        live = served.objects.get(RESOURCE, NAME)
        assert condition(live, "Ready")["status"] == "False"
        assert condition(live, "ServingAvailable")["status"] == "True"
        assert condition(live, "Stalled")["status"] == "True"
        assert "model.bin" in built["message"]
        began_at = clock()
        await served.apply(served.spec)
        await served.settled()
        record_property("corrected_spec_ready_after_seconds", round(clock() - began_at, 1))
    record_property("load_during_failed_build", load.figures())
    assert load.failed() == []
    assert load.wrong(served.expected) == []
    assert served.replicas() == replicas


async def test_a_model_that_hears_other_words_never_serves_and_a_corrected_spec_repairs_it(
    served: Served, record_property: Record
) -> None:
    clock = asyncio.get_running_loop().time
    files = await asyncio.to_thread(mistrain, served.models / "whisper-base", served.mistrained / "whisper-base")
    replicas = served.replicas()
    async with served.load(1) as load:
        await load.answered(1)
        began_at = clock()
        await served.apply(mistrained(served.spec, files, max(60, round(2 * served.start_seconds))))
        [pod] = await served.objects.until("a pod of the new spec", served.newcomers)
        await served.heard_other_words(pod)
        serving = await served.told("ServingAvailable", Reason.CANARY_FAILED)
        record_property("failed_canary_told_after_seconds", round(clock() - began_at, 1))
        record_property("failed_canary_message", serving["message"])
        assert serving["status"] == "True", "the earlier replica serves on"
        assert condition(served.objects.get(RESOURCE, NAME), "Ready")["status"] == "False"
        await load.answered(1)
        assert served.replicas() == replicas
        began_at = clock()
        await served.apply(served.spec)
        await served.settled()
        record_property("repaired_after_seconds", round(clock() - began_at, 1))
    record_property("load_during_failed_canary", load.figures())
    assert load.failed() == []
    assert load.wrong(served.expected) == []
    assert served.replicas() == replicas
