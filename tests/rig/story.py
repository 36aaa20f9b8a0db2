"""`make demo-cluster`: the whole story in one terminal, on a real control plane with pods that are real local processes.

Apply a TranscriberDeployment, watch it become ready, transcribe from the pod's address, change the draft, transcribe again, delete.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.rig.cluster import ROOT, Cluster, say
from tests.rig.go_build import BuildError

NAME: Final = "whisper-base"
NAMESPACE: Final = "speech"
SELECTOR: Final = f"serving.transcriber.dev/deployment={NAME}"
OURS: Final = "td,deployments,jobs,pods,services,configmaps,poddisruptionbudgets,networkpolicies"
EXAMPLE: Final = "examples/cluster/whisper-base.yaml"
RECORDING: Final = "examples/audio/a-tale-of-two-cities.flac"
NO_DRAFT_MODEL: Final = '{"spec":{"decoding":{"draftSource":"PromptLookup"}}}'
COLUMNS: Final = (
    "custom-columns=READY:.status.conditions[?(@.type=='Ready')].status,REASON:.status.conditions[?(@.type=='Ready')].reason,"
    "REPLICAS:.status.replicaSummary,MESSAGE:.status.conditions[?(@.type=='Ready')].message"
)
WAIT: Final = "--timeout=10m"


class Story:
    """Prints each command as a person would type it, runs it, and prints what it says."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._started = time.monotonic()

    async def kubectl(self, *arguments: str) -> str:
        """Run kubectl in the story's namespace."""
        say(f"\n[{time.monotonic() - self._started:5.1f} s] $ kubectl {' '.join(arguments)}")
        output = await self._cluster.kubectl(f"--namespace={NAMESPACE}", *arguments)
        say(output.rstrip())
        return output

    async def wait_until_ready(self, generation: int) -> None:
        """Wait for the spec to be seen, then for it to be served; meanwhile print the resource whenever it changes."""
        watch = asyncio.create_task(self._watch())
        try:
            seen = f"--for=jsonpath={{.status.observedGeneration}}={generation}"
            await self._cluster.kubectl(f"--namespace={NAMESPACE}", "wait", seen, f"td/{NAME}", WAIT)
            await self.kubectl("wait", "--for=condition=Ready", f"td/{NAME}", WAIT)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        await self.kubectl("get", "td", NAME)

    async def transcribe(self) -> None:
        """Transcribe from the address of the pod."""
        serving = f"{SELECTOR},app.kubernetes.io/component=serving"
        pods = await self.kubectl("get", "pods", "-l", serving, "-o", "wide", "--no-headers")
        [running] = [line.split() for line in pods.splitlines() if " Running " in line]
        address = next(word for word in running if word.startswith("127."))
        arguments = ("transcribe", RECORDING, "--endpoint", f"{address}:8001", "--verify")
        say(f"\n[{time.monotonic() - self._started:5.1f} s] $ transcriber {' '.join(arguments)}")
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "transcriber_cli", *arguments, cwd=ROOT)
        if await process.wait():
            raise SystemExit("the transcript did not come; see above")

    async def _watch(self) -> None:
        """Print the line of `kubectl get td` whenever it is another one."""
        shown = ""
        while True:
            line = await self._cluster.kubectl(f"--namespace={NAMESPACE}", "get", "td", NAME, "--no-headers", "-o", COLUMNS)
            if line != shown:
                say(f"[{time.monotonic() - self._started:5.1f} s]   {line.rstrip()}")
            shown = line
            await asyncio.sleep(1)


async def tell(folder: Path) -> None:
    """Run the story; raises where a step fails."""
    say("starting etcd, kube-apiserver, kube-controller-manager, kube-scheduler, KWOK and the operator")
    async with Cluster(folder, os.environ) as cluster:
        await cluster.namespace(NAMESPACE, models=ROOT / "examples" / "models", transcriber_repositories=folder / "repositories")
        await cluster.start_operator()
        story = Story(cluster)
        await story.kubectl("apply", "-f", str(ROOT / EXAMPLE))
        await story.wait_until_ready(1)
        await story.transcribe()
        await story.kubectl("patch", "td", NAME, "--type=merge", "-p", NO_DRAFT_MODEL)
        await story.wait_until_ready(2)
        await story.transcribe()
        await story.kubectl("get", "events", "--field-selector", "involvedObject.kind=TranscriberDeployment")
        await story.kubectl("delete", "td", NAME)
        await cluster.kubectl(f"--namespace={NAMESPACE}", "wait", "--for=delete", "pods", "-l", SELECTOR, WAIT)
        left = await story.kubectl("get", OURS, "-l", SELECTOR, "-o", "name")
        if left.strip():
            raise SystemExit("something was left behind; see above")
        say("nothing left")


def main() -> int:
    """Run the story in a folder of its own; returns the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="transcriber-story-"))
    try:
        asyncio.run(tell(folder))
    except BuildError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
