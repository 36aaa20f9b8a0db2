"""Real serving processes on a spot node that is taken back, beside stubs: real exporters tell their load, and no call is lost."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from examples.models.assemble import assemble

from tests.cluster.live import is_ready
from tests.cluster.load import Load
from tests.cluster.quick_pods import Parts
from tests.cluster.scaled import NAME, NODE_CLASS, Scaled, make_namespace, prepare, scaled
from tests.cluster.test_serving import START_SECONDS, example, recordings
from tests.cluster.transcriber_workload import API_VERSION
from tests.rig import karpenter
from tests.rig.bridge_objects import make_claim
from tests.rig.cluster import ROOT, OperatorProcess
from tests.rig.kwok import fake_node
from tests.rig.stub_replicas import StubReplicas

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]
Record = Callable[[str, object], None]
NAMESPACE: Final = "scaling-real"
BUILD_NODE: Final = "node-of-builds"
INSTANCE_TYPE_LABEL: Final = "node.kubernetes.io/instance-type"
SMALLEST: Final = "g6.xlarge"
NOTICE_SECONDS: Final = 60.0
CLIENTS: Final = 2


@dataclass(frozen=True)
class Real:
    """A resource with two real replicas; those that come later are stubs."""

    own: Scaled
    stubs: StubReplicas

    def addresses(self) -> list[str]:
        """The real pods that take work."""
        return [pod["status"]["podIP"] for pod in self.own.pods() if is_ready(pod) and self.stubs.is_real(pod)]


def document() -> dict[str, Any]:
    """The example of the repository, on spot nodes of Karpenter."""
    spec = example()
    spec["scaling"] = {"minReplicas": 2, "maxReplicas": 3}
    spec["runtime"] |= {"terminationGracePeriodSeconds": 40, "resources": {"requests": {"cpu": "3", "memory": "1Gi"}}}
    spec["capacity"] = {
        "nodeClassRef": {"group": karpenter.NODE_CLASS_GROUP, "kind": karpenter.NODE_CLASS_KIND, "name": NODE_CLASS},
        # Of so small a node each replica needs one to itself.
        "pools": [{"name": "spot", "capacityType": "Spot", "maxNodes": 3, "nodeSelector": {INSTANCE_TYPE_LABEL: SMALLEST}}],
    }
    return {"apiVersion": API_VERSION, "kind": "TranscriberDeployment", "metadata": {"name": NAME}, "spec": spec}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(triton: object, parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Real]:
    folder = tmp_path_factory.mktemp("real")
    models = folder / "models"

    def fill(models: Path) -> None:
        assemble(models / "whisper-base")
        shutil.copytree(ROOT / "examples" / "models" / "whisper-base-draft", models / "whisper-base-draft")
        parts.plane.apply(fake_node(BUILD_NODE, tainted=False))
        for claim, place in (("models", models), ("transcriber-repositories", folder / "repositories")):
            make_claim(parts.plane, NAMESPACE, claim, place)

    await prepare(parts)
    await make_namespace(parts, NAMESPACE)
    await asyncio.to_thread(fill, models)
    stubs = StubReplicas(real_pods=2)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(parts.kubectl, "delete", f"node/{BUILD_NODE}")
        operator = await asyncio.to_thread(OperatorProcess, parts.plane, {"TRANSCRIBER_NAMESPACES": NAMESPACE})
        stack.push_async_callback(asyncio.to_thread, operator.stop)
        await asyncio.to_thread(operator.start)
        own = await stack.enter_async_context(scaled(parts, NAMESPACE, folder, stubs))
        await own.apply(document())
        await own.serves(2, START_SECONDS)
        yield Real(own, stubs)


async def test_real_replicas_tell_their_load_and_one_that_is_taken_back_costs_no_call(real: Real, record_property: Record) -> None:
    own = real.own
    async with Load(real.addresses, recordings(), CLIENTS) as load:
        await load.answered(2 * CLIENTS)
        await own.objects.until(
            "figures of real replicas", lambda: float(own.resource["status"]["scaling"]["arrivalRate"]) > 0 or None
        )
        victim = next(pod for pod in own.pods() if real.stubs.is_real(pod))
        noticed_at = asyncio.get_running_loop().time()
        taken = await own.spot.interrupt(own.claim_of(victim), NOTICE_SECONDS)
        await load.answered(2 * CLIENTS)
        had_to_be_taken = await taken
        ordered_at = own.first_seen("NodeClaim", noticed_at)
        assert ordered_at is not None
        await own.serves(2, START_SECONDS)
        await load.answered(CLIENTS)
    record_property("load", load.figures())
    record_property("replacement_ordered_after_seconds", round(ordered_at - noticed_at, 1))
    record_property("scaling", dict(own.resource["status"]["scaling"]))
    assert load.failed() == []
    assert not had_to_be_taken, "the calls were done within the notice"
    assert len(real.addresses()) == 1
