"""By Helm onto a real kubelet: the operator as itself, a resource from its manifest to its words, and what pods may not do."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pytest

from tests.e2e.calls import PORT, RECORDING, WORDS, calling, failed, figures, restricted, transcript, user
from tests.e2e.release import NAME, NAMESPACE, READY_SECONDS, RELEASE, SYSTEM, Release
from tests.e2e.site import Manifest, Site, SiteError, condition, until
from tests.rig.cluster import ROOT
from transcriber_exporter.canary import words

pytestmark = pytest.mark.timeout(1800)
Record = Callable[[str, object], None]
TOLD_SECONDS: Final = 60.0
HALF_A_GIGABYTE: Final = 1 << 29
TOKEN_FILE: Final = "/var/run/secrets/kubernetes.io/serviceaccount/token"
# What a container says of itself: whose token it has, as whom it runs, and whether it can write where it should not.
WHO: Final = f"""
import base64, json, os
try:
    payload = open({TOKEN_FILE!r}).read().split(".")[1]
    subject = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]
except OSError:
    subject = None
def writes(folder):
    try:
        with open(folder + "/written", "w"): return True
    except OSError as error:
        return error.strerror
capabilities = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff"))
print(json.dumps(dict(subject=subject, uid=os.getuid(), root=writes("/"), tmp=writes("/tmp"), capabilities=capabilities)))
"""
STOP_MODELS: Final = """
import os, pathlib, signal
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    if (folder / "cmdline").read_bytes().split(bytes(1))[0].endswith(b"/triton_python_backend_stub"):
        os.kill(int(folder.name), signal.SIGSTOP); print(folder.name)
"""
END_TRITON: Final = "import os, signal; os.kill(1, signal.SIGTERM)"


def who(site: Site, namespace: str, pod: str, container: str) -> Manifest:
    told = site.kubectl("exec", pod, f"--namespace={namespace}", f"--container={container}", "--", "python3", "-c", WHO)
    return dict(json.loads(told))


def test_the_operator_comes_up_in_a_pod_under_its_own_service_account(site: Site, release: Release, record_property: Record):
    pod = release.operator()
    name = pod["metadata"]["name"]
    told = who(site, SYSTEM, name, "operator")
    record_property("node_and_control_plane_seconds", round(site.start_seconds, 1))
    record_property("operator", told)
    assert told["subject"] == f"system:serviceaccount:{SYSTEM}:{RELEASE}"
    assert (told["uid"], told["root"], told["tmp"]) == (1000, "Read-only file system", True)
    assert int(told["capabilities"], 16) == 0
    until("the Lease is the pod's", lambda: name in release.holder(), 60)


def test_a_resource_becomes_ready_from_its_manifest_alone(site: Site, served: Release, record_property: Record):
    # It is told once the first canary is, which may be after the replica was seen to be ready.
    [start] = until("the cold start is told", lambda: served.resource()["status"].get("coldStarts"), TOLD_SECONDS)
    [build] = site.list("jobs", NAMESPACE, f"serving.transcriber.dev/deployment={NAME}")
    record_property("cold_start_seconds", start["seconds"])
    record_property("cold_start_stages", {stage["name"]: stage["seconds"] for stage in start["stages"]})
    record_property("build", {key: build["status"][key] for key in ("startTime", "completionTime")})
    sizes = {image: entry["sizeBytes"] for entry in site.list("nodes")[0]["status"]["images"] for image in entry["names"] or ()}
    record_property("image_bytes", {name: size for name, size in sizes.items() if "transcriber" in name and "@" not in name})
    assert [stage["name"] for stage in start["stages"]], "every stage is told apart"
    assert condition(served.resource(), "Ready")["status"] == "True"


def test_a_call_by_the_name_of_the_service_returns_the_known_words(site: Site, served: Release, record_property: Record):
    call = transcript(site, NAMESPACE, NAME, served.serving_image)
    record_property("first_call", figures([call]))
    assert call.text is not None, call
    assert words(call.text) == WORDS


def verified(site: Site, served: Release) -> str:
    """Transcribe as a person does and have every token compared with the target's alone."""
    with site.forwarded(NAMESPACE, f"service/{NAME}", PORT) as endpoint:
        argv = [sys.executable, "-m", "transcriber_cli", "transcribe", str(RECORDING), "--endpoint", endpoint, "--verify"]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert words(done.stdout) == WORDS
    return done.stderr.strip()


def test_the_transcript_is_the_target_s_own_token_by_token(site: Site, served: Release, record_property: Record):
    record_property("verify", verified(site, served))


def test_another_draft_is_built_and_rolled_out_and_serves_the_same_words(site: Site, served: Release, record_property: Record):
    [before] = served.replicas()
    with calling(site, NAMESPACE, f"{NAME}-pods", served.serving_image) as caller:
        began = time.monotonic()
        served.patch({"decoding": {"draftSource": "PromptLookup"}})
        served.settled()
        seconds = time.monotonic() - began
        calls = caller.answered(2)
    [after] = served.replicas()
    record_property("change_seconds", round(seconds, 1))
    record_property("calls_meanwhile", figures(calls))
    record_property("verify", verified(site, served))
    assert after.uid != before.uid
    assert failed(calls) == []
    assert all(words(call.text or "") == WORDS for call in calls)


def test_helm_test_transcribes_on_every_resource(site: Site, served: Release, record_property: Record):
    began = time.monotonic()
    site.helm("test", RELEASE, f"--namespace={SYSTEM}", "--timeout=5m")
    record_property("helm_test_seconds", round(time.monotonic() - began, 1))
    told = site.kubectl("logs", f"{RELEASE}-trial", f"--namespace={SYSTEM}")
    record_property("helm_test", [line for line in told.splitlines() if NAME in line])
    assert f"{NAMESPACE}/{NAME}" in told


@pytest.mark.parametrize("container", ["triton", "exporter"])
def test_a_serving_container_has_no_token_no_capability_and_no_root_to_write_to(site: Site, served: Release, container: str):
    [replica] = served.replicas()
    told = who(site, NAMESPACE, replica.name, container)
    assert told == {
        "subject": None, "uid": 1000, "root": "Read-only file system", "tmp": True, "capabilities": "0" * 16,
    }  # fmt: skip


def test_a_container_that_takes_more_memory_than_its_limit_is_ended(site: Site, served: Release):
    container = {
        "name": "greedy",
        "image": served.serving_image,
        "command": ["python3", "-c", f"print(len(bytearray({HALF_A_GIGABYTE})))"],
        "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "64Mi"}},
        "securityContext": restricted(),
    }
    spec = {"containers": [container], "securityContext": user(), "restartPolicy": "Never", "automountServiceAccountToken": False}
    site.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "greedy", "namespace": NAMESPACE}, "spec": spec})
    site.kubectl("wait", "--for=jsonpath={.status.phase}=Failed", "pod/greedy", f"--namespace={NAMESPACE}", "--timeout=2m")
    [status] = site.get("pod", "greedy", NAMESPACE)["status"]["containerStatuses"]
    site.kubectl("delete", "pod", "greedy", f"--namespace={NAMESPACE}")
    assert status["state"]["terminated"]["reason"] == "OOMKilled"


def test_a_replica_that_hangs_is_taken_out_of_the_service_then_restarted_and_serves(
    site: Site, served: Release, record_property: Record
):
    [before] = served.replicas()
    inside = ("exec", before.name, f"--namespace={NAMESPACE}", "--container=triton", "--", "python3", "-c", STOP_MODELS)
    assert site.kubectl(*inside).split(), "there was a model to stop"
    began = time.monotonic()
    until("the hung replica is not ready", lambda: not served.replicas(), READY_SECONDS)
    noticed = time.monotonic()
    until("the replica is ready again", served.replicas, READY_SECONDS)
    record_property("seconds_until_out", round(noticed - began, 1))
    record_property("seconds_until_back", round(time.monotonic() - noticed, 1))
    [after] = served.replicas()
    assert (after.uid, after.restarts) == (before.uid, before.restarts + 1)


def test_triton_that_ends_is_started_again_in_its_pod_and_serves(site: Site, served: Release, record_property: Record):
    [before] = served.replicas()
    began = time.monotonic()
    with suppress(SiteError):  # what asks for the end may go with it
        site.kubectl("exec", before.name, f"--namespace={NAMESPACE}", "--container=triton", "--", "python3", "-c", END_TRITON)
    until("a restart", lambda: any(each.restarts > before.restarts for each in served.replicas()), READY_SECONDS)
    record_property("seconds_until_serving_again", round(time.monotonic() - began, 1))
    [after] = served.replicas()
    assert (after.uid, after.restarts) == (before.uid, before.restarts + 1)
    assert words(transcript(site, NAMESPACE, NAME, served.serving_image).text or "") == WORDS


def test_a_pod_that_is_deleted_under_load_finishes_its_calls_and_another_takes_the_rest(
    site: Site, served: Release, record_property: Record
):
    served.patch({"scaling": {"minReplicas": 2, "maxReplicas": 2}})
    served.settled(replicas=2)
    victim = served.replicas()[0]
    with calling(site, NAMESPACE, f"{NAME}-pods", served.serving_image, clients=3) as caller:
        caller.answered(6)
        began = time.monotonic()
        site.kubectl("delete", "pod", victim.name, f"--namespace={NAMESPACE}")  # returns when it is gone
        gone = time.monotonic()
        calls = caller.answered(6)
    record_property("seconds_until_gone", round(gone - began, 1))
    record_property("calls", figures(calls))
    served.settled(replicas=2)
    served.patch({"scaling": {"minReplicas": 1, "maxReplicas": 1}})
    served.settled(replicas=1)
    assert failed(calls) == []
