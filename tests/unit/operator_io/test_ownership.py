"""Names that are taken: what may become a child and what must not."""

from typing import Any

import pytest

from tests.unit.operator_io.parts import config_map, resource
from transcriber_operator.errors import TerminalError, TransientError
from transcriber_operator.execute.ownership import objection

LABEL = {"serving.transcriber.dev/deployment": "whisper"}


def owned_by(kind: str, name: str, uid: str) -> dict[str, Any]:
    return config_map("child", ownerReferences=[{"kind": kind, "name": name, "uid": uid, "controller": True}], labels=LABEL)


def test_a_child_of_ours_stays_ours() -> None:
    assert objection(owned_by("TranscriberDeployment", "whisper", "uid-1"), resource()) is None


def test_an_orphan_with_our_label_is_taken_in() -> None:
    assert objection(config_map("child", labels=LABEL), resource()) is None


def test_the_child_of_a_predecessor_is_waited_for() -> None:
    error = objection(owned_by("TranscriberDeployment", "whisper", "uid-0"), resource())
    assert isinstance(error, TransientError)
    assert "ConfigMap child of an earlier TranscriberDeployment whisper is still being deleted" in str(error)


@pytest.mark.parametrize("labels", [{}, None, {"serving.transcriber.dev/deployment": "other"}])
def test_an_object_of_somebody_else_is_never_taken_over(labels: dict[str, str] | None) -> None:
    error = objection(config_map("child", labels=labels), resource())
    assert isinstance(error, TerminalError)
    assert "ConfigMap child exists and is not ours; delete it, or give the TranscriberDeployment another name" in str(error)


@pytest.mark.parametrize(("namespace", "is_ours"), [("speech", True), ("calls", False), (None, False)])
def test_what_lives_in_no_namespace_is_ours_by_its_labels(namespace: str | None, is_ours: bool) -> None:
    labels = LABEL | ({"serving.transcriber.dev/namespace": namespace} if namespace else {})
    pool = {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": {"name": "speech-whisper-spot", "labels": labels}}
    assert (objection(pool, resource()) is None) is is_ours


@pytest.mark.parametrize(("kind", "name"), [("HelmRelease", "whisper"), ("TranscriberDeployment", "other")])
def test_a_child_of_somebody_else_is_never_taken_over(kind: str, name: str) -> None:
    error = objection(owned_by(kind, name, "uid-9"), resource())
    assert isinstance(error, TerminalError)
    assert f"belongs to {kind} {name}" in str(error)
