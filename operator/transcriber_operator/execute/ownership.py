"""Whether a name that is about to be created is free: server-side apply would take over whatever has it."""

from typing import Any

from transcriber_api.v1alpha1 import KIND
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.errors import OperatorError, TerminalError, TransientError
from transcriber_operator.render.names import DEPLOYMENT_LABEL, NAMESPACE_LABEL


def objection(existing: Manifest, resource: Manifest) -> OperatorError | None:
    """Return why `existing` must not become a child of `resource`, None if it may.

    It may if it is a child already, or an orphan with our label (deleted with `--cascade=orphan`). What lives in no namespace has
    no owner, so that its labels say whose it is.
    """
    metadata, mine = existing["metadata"], resource["metadata"]
    controller = next((owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")), None)
    what = f"{existing['kind']} {metadata['name']}"
    if controller is None:
        labels = metadata.get("labels") or {}
        namespace = metadata.get("namespace") or labels.get(NAMESPACE_LABEL)
        if (labels.get(DEPLOYMENT_LABEL), namespace) == (mine["name"], mine["namespace"]):
            return None
        return TerminalError(f"{what} exists and is not ours; delete it, or give the TranscriberDeployment another name")
    if controller.get("uid") == mine["uid"]:
        return None
    if _is_predecessor(controller, mine["name"]):
        return TransientError(f"{what} of an earlier {KIND} {mine['name']} is still being deleted")
    return TerminalError(
        f"{what} belongs to {controller.get('kind')} {controller.get('name')}; give the TranscriberDeployment another name"
    )


def _is_predecessor(controller: dict[str, Any], name: str) -> bool:
    return controller.get("kind") == KIND and controller.get("name") == name
