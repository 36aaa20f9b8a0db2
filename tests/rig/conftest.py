from tests.rig.api_stand_in import stand_in, stand_in_client, stand_in_proxy, stand_in_url
from tests.rig.bridge_fixtures import apply, bridge, bridge_node, bridged_namespace, kubectl, shared
from tests.rig.fixtures import binaries, control_plane, namespace

__all__ = [
    "apply",
    "binaries",
    "bridge",
    "bridge_node",
    "bridged_namespace",
    "control_plane",
    "kubectl",
    "namespace",
    "shared",
    "stand_in",
    "stand_in_client",
    "stand_in_proxy",
    "stand_in_url",
]
