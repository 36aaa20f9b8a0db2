"""What the chart's own changes mean to what it serves: an upgrade, an end without an operator, a new beginning, and a clean end."""

import time
from collections.abc import Callable, Mapping
from typing import Final

import pytest

from tests.e2e.calls import WORDS, calling, failed, figures, transcript
from tests.e2e.release import KIND, NAME, NAMESPACE, OPERATOR, OURS, RELEASE, SERVED, SYSTEM, Release
from tests.e2e.site import Site, SiteError, until
from tests.rig.node_images import VERSION
from transcriber_exporter.canary import words

pytestmark = pytest.mark.timeout(1800)
Record = Callable[[str, object], None]
ADOPTED_SECONDS: Final = 120.0
# With it a build, a rollout or a start would show.
CHILDREN: Final = "deployments,replicasets,jobs,services,configmaps"


def versions(site: Site) -> Mapping[str, str]:
    """Return what the children of the resource are: another uid or generation means that somebody made or changed one."""
    children = site.list(CHILDREN, NAMESPACE, SERVED)
    return {
        f"{each['kind']}/{each['metadata']['name']}": f"{each['metadata']['uid']} {each['metadata'].get('generation')}"
        for each in children
    }


def finalizers(release: Release) -> list[str]:
    return list(release.resource()["metadata"].get("finalizers", ()))


def test_an_upgrade_replaces_the_operator_and_neither_restarts_a_serving_pod_nor_fails_a_call(
    site: Site, served: Release, record_property: Record
):
    before, children, resource = served.replicas(), versions(site), served.resource()
    old = served.operator()
    with calling(site, NAMESPACE, f"{NAME}-pods", served.serving_image, clients=2) as caller:
        caller.answered(4)
        began = time.monotonic()
        served.install(VERSION)
        upgraded = time.monotonic()
        until("the new operator holds the Lease", lambda: served.operator()["metadata"]["name"] in served.holder(), ADOPTED_SECONDS)
        led = time.monotonic()
        calls = caller.answered(6)
    new = served.operator()
    record_property("upgrade_seconds", round(upgraded - began, 1))
    record_property("without_a_leader_at_most_seconds", round(led - began, 1))
    record_property("images", [pod["spec"]["containers"][0]["image"] for pod in (old, new)])
    record_property("calls", figures(calls))
    assert old["spec"]["containers"][0]["image"] != new["spec"]["containers"][0]["image"]
    assert served.settled()["metadata"]["generation"] == resource["metadata"]["generation"]
    assert served.replicas() == before
    assert versions(site) == children
    assert failed(calls) == []


def test_with_a_dead_operator_the_chart_is_removed_and_serving_goes_on(site: Site, served: Release, record_property: Record):
    before, children = served.replicas(), versions(site)
    site.kubectl("scale", f"deployment/{RELEASE}", f"--namespace={SYSTEM}", "--replicas=0")
    site.kubectl("wait", "--for=delete", "pods", f"--selector={OPERATOR}", f"--namespace={SYSTEM}", "--timeout=2m")
    began = time.monotonic()
    served.uninstall()
    record_property("uninstall_seconds", round(time.monotonic() - began, 1))
    assert finalizers(served) == []
    assert site.names("deployments,jobs,services,serviceaccounts", SYSTEM, "app.kubernetes.io/name=transcriber-operator") == []
    assert served.replicas() == before
    assert versions(site) == children
    call = transcript(site, NAMESPACE, NAME, served.serving_image)
    assert words(call.text or "") == WORDS


def test_a_new_installation_adopts_what_is_there(site: Site, served: Release, record_property: Record):
    before, children, generation = served.replicas(), versions(site), served.resource()["metadata"]["generation"]
    began = time.monotonic()
    served.install(VERSION)
    until("the resource is looked after", lambda: finalizers(served), ADOPTED_SECONDS)
    resource = served.settled()
    record_property("reinstall_seconds", round(time.monotonic() - began, 1))
    assert resource["metadata"]["generation"] == generation
    assert served.replicas() == before
    assert versions(site) == children


def test_a_deleted_resource_takes_all_of_its_own_with_it_and_its_namespace_can_go(
    site: Site, served: Release, record_property: Record
):
    began = time.monotonic()
    site.kubectl("delete", KIND, NAME, f"--namespace={NAMESPACE}")
    until("nothing is left", lambda: not site.names(OURS, NAMESPACE, SERVED), 180)
    gone = time.monotonic()
    site.kubectl("delete", "namespace", NAMESPACE, timeout_seconds=180)
    record_property("delete_seconds", round(gone - began, 1))
    record_property("namespace_seconds", round(time.monotonic() - gone, 1))


def test_an_operator_whose_image_is_nowhere_is_removed_without_the_hook_that_needs_it(site: Site, release: Release):
    release.uninstall()
    with pytest.raises(SiteError, match=r"(?i)timed out|deadline|not ready"):
        release.install(VERSION, "image.tag=nowhere", timeout_seconds=20)
    release.uninstall("--no-hooks")
    site.kubectl("delete", "namespace", SYSTEM, timeout_seconds=180)
