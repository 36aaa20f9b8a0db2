"""Whose fields become ours when an edit by hand is undone."""

from typing import Any

from transcriber_operator.execute.takeover import taken_over


def entry(manager: str, fields: dict[str, Any], operation: str = "Update", **more: Any) -> dict[str, Any]:
    return {"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsV1": fields, **more}


OURS = entry("transcriber-controller", {"f:spec": {"f:ports": {"k:8001": {"f:name": {}}}}}, "Apply")
SCALE = entry("kube-scale", {"f:spec": {"f:replicas": {}}}, subresource="scale")
STATUS = entry("kubelet", {"f:status": {}}, subresource="status")
AUTOSCALER = entry("transcriber-autoscaler", {"f:spec": {"f:replicas": {}}}, "Apply")
REVISION = entry("kube-controller-manager", {"f:metadata": {"f:annotations": {"f:revision": {}}}})


def test_what_others_wrote_counts_as_applied_by_us() -> None:
    edited = entry("kubectl-edit", {"f:spec": {"f:ports": {"k:1": {".": {}}}, "f:type": {}}})
    helm = entry("helm", {"f:data": {}}, "Apply")
    found = taken_over([edited, OURS, helm, SCALE, STATUS, AUTOSCALER, REVISION], "transcriber-controller")
    assert found is not None
    assert found[0] == {
        **OURS,
        "fieldsV1": {"f:data": {}, "f:spec": {"f:ports": {"k:1": {".": {}}, "k:8001": {"f:name": {}}}, "f:type": {}}},
    }
    assert found[1:] == [SCALE, STATUS, AUTOSCALER, REVISION]


def test_where_nobody_else_wrote_there_is_nothing_to_take_over() -> None:
    assert taken_over([OURS, SCALE, STATUS, AUTOSCALER, REVISION], "transcriber-controller") is None


def test_what_we_never_applied_is_not_taken_over() -> None:
    assert taken_over([entry("kubectl-create", {"f:data": {}})], "transcriber-controller") is None
