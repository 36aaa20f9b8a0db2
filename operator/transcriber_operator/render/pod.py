"""Parts that the pods of builds and of serving share: security, identity, resources, volumes."""

from collections.abc import Mapping
from typing import Any, Final

from transcriber_api.serving import Resources
from transcriber_operator.render import names
from transcriber_operator.render.context import Context, Manifest

USER_ID: Final = 1000
REPOSITORIES_DIR: Final = "/repositories"
DOCUMENT_DIR: Final = "/etc/transcriber"
DOCUMENT_FILE: Final = "deployment.yaml"
GRPC_PORT: Final = 8001
TRITON_METRICS_PORT: Final = 8002
EXPORTER_PORT: Final = 8003
PROGRESS_PORT: Final = 8003  # of a build Job's pod
POD_PROGRESS_PORT: Final = 8004  # of a build inside a serving pod, whose exporter listens already
POD_IP: Final[Manifest] = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}


def pod_template(context: Context, component: str, spec: Manifest, pool: str | None = None, **annotations: str) -> Manifest:
    """Return a pod template that satisfies pod security `restricted`; `spec` adds to what all pods have."""
    metadata: Manifest = {"labels": names.labels(context, component, pool)}
    if annotations:
        metadata["annotations"] = annotations
    account = context.spec.runtime.service_account_name
    shared = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            # A claim of many gigabytes is not walked at every start of a pod.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"serviceAccountName": account} if account else {}),
    }
    return {"metadata": metadata, "spec": {**shared, **spec}}


def container(name: str, image: str, command: list[str], **more: Any) -> Manifest:
    """Return a container without privileges and with a read-only root; empty parts of `more` are left out."""
    return {
        "name": name,
        "image": image,
        "command": command,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # What a container says last, where it wrote no message of its own, is the end of its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **{field: value for field, value in more.items() if value},
    }


def resources(wanted: Resources, extended: Mapping[str, int] | None = None) -> Manifest:
    """Return `resources` with the quantities as they were written; empty where nothing was asked for.

    `extended` resources, such as GPUs, are limits: the API server makes them requests too.
    """
    given = wanted.model_dump(mode="json", by_alias=True, exclude_none=True)
    given["limits"] |= {name: str(count) for name, count in (extended or {}).items()}
    return {part: amounts for part, amounts in given.items() if amounts}


def empty_dir(name: str, medium: str | None = None, size_limit: str | None = None) -> Manifest:
    """Return a volume that lives as long as its pod."""
    given = {"medium": medium, "sizeLimit": size_limit}
    return {"name": name, "emptyDir": {field: value for field, value in given.items() if value}}


def claim_volume(name: str, claim: str) -> Manifest:
    """Return the volume of a claim; whether it may be written is said where it is mounted."""
    return {"name": name, "persistentVolumeClaim": {"claimName": claim}}


def mount(name: str, path: str, *, sub_path: str | None = None, read_only: bool = False) -> Manifest:
    """Return where a container sees a volume."""
    return {
        "name": name,
        "mountPath": path,
        **({"subPath": sub_path} if sub_path else {}),
        **({"readOnly": True} if read_only else {}),
    }
