from tests.rig.fixtures import binaries, control_plane, namespace

__all__ = ["binaries", "control_plane", "namespace"]
