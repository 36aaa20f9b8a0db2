"""GPU nodes: that they offer what pods ask for, and that what makes them offer it gets onto them."""

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

from transcriber_cli.cluster import Unread
from transcriber_cli.doctor.asked import Asked, named_by
from transcriber_cli.doctor.findings import Area, Finding, not_checked, note, ok, problem
from transcriber_cli.doctor.seen import Many, Seen
from transcriber_operator.decide.live import label, timestamp
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.render.gpus import INSTANCE_TYPE_LABEL, INSTANCE_TYPES
from transcriber_operator.render.names import DEPLOYMENT_LABEL
from transcriber_operator.render.node_pool import EKS_AUTO_MODE, GPU_TAINT, KWOK, POOL_TAINT

PLUGIN: Final = "the NVIDIA device plugin"
PLUGIN_PATTERN: Final = re.compile(r"k8s-device-plugin|nvidia-device-plugin")
OTHER_PARTS: Final = re.compile(r"feature-discovery|mps-control")  # that come in the same image
GPU_FAMILIES: Final = re.compile(r"^(g4dn|g5g?|g6e?|g7e?|gr6|p3|p4d|p4de|p5|p5e|p5en|p6)\b")
GPU_LABELS: Final = (
    "nvidia.com/gpu.present",
    "karpenter.k8s.aws/instance-gpu-count",
    "eks.amazonaws.com/instance-gpu-count",
    "cloud.google.com/gke-accelerator",
)
INSTALL: Final = (
    "install the NVIDIA device plugin (https://github.com/NVIDIA/k8s-device-plugin) or the GPU Operator, "
    "with tolerations: [{operator: Exists}]"
)
BOTTLEROCKET: Final = "bottlerocket"
BOOT: Final = timedelta(minutes=10)  # in which a node may have no GPU to offer yet


def gpu_nodes(seen: Seen) -> Iterator[Finding]:
    """Each resource name that GPUs are asked for by is offered, and no GPU node offers nothing."""
    wanted = sorted({each.gpu_resource for each in seen.asked if each.gpu_resource})
    if not wanted:
        return
    if isinstance(seen.nodes, Unread):
        yield not_checked(Area.GPUS, "GPU nodes", seen.nodes, "list nodes")
        return
    for name in wanted:
        yield _offer(seen, seen.nodes, name)
    for node in seen.nodes:
        if looks_like_gpu(node) and not any(offered(node, name) for name in _nvidia(node, wanted)):
            yield _without_offer(seen, node, wanted)


def device_plugin(seen: Seen) -> Iterator[Finding]:
    """Something makes nodes offer their GPUs, and tolerates the taints of the nodes that Karpenter makes for a pool."""
    users = tuple(each for each in seen.asked if each.gpu_resource)
    if not users:
        return
    if isinstance(seen.daemon_sets, Unread):
        yield not_checked(Area.GPUS, PLUGIN, seen.daemon_sets, "list daemonsets -A")
        return
    plugins = tuple(each for each in seen.daemon_sets if is_plugin(each))
    own = tuple(each for each in users if brings_own_plugin(seen, each))
    needing = tuple(each for each in users if each not in own)
    if own:
        yield ok(Area.GPUS, "device-plugin-of-nodes", PLUGIN, f"comes with the nodes of {named_by(own)}")
    if not needing:
        return
    if not plugins:
        yield _no_plugin(seen.nodes, needing)
        return
    taints = [GPU_TAINT, POOL_TAINT] if any(each.is_karpenter for each in needing) else []
    fitting = [each for each in plugins if all(_tolerates(each, taint) for taint in taints)]
    for plugin in fitting or plugins:
        yield _plugin(plugin, taints, needing)


def _offer(seen: Seen, nodes: tuple[Manifest, ...], name: str) -> Finding:
    users = tuple(each for each in seen.asked if each.gpu_resource == name)
    offering = [node for node in nodes if offered(node, name)]
    total = sum(offered(node, name) for node in offering)
    if offering:
        return ok(Area.GPUS, "gpus", name, f"{total} offered by {len(offering)} of {len(nodes)} nodes")
    if all(each.is_karpenter for each in users):
        return note(Area.GPUS, "gpus-to-come", name, f"offered by none of {len(nodes)} nodes now; Karpenter orders them")
    lacking = named_by(each for each in users if not each.is_karpenter)
    kinds = sorted({other for node in nodes for other in _nvidia(node, ()) if offered(node, other)})
    if kinds:
        fix = f"set runtime.gpuResourceName: {kinds[0]}"
        return problem(Area.GPUS, "gpu-resource-unknown", name, f"no node offers it; nodes offer {', '.join(kinds)}", fix)
    if any(map(looks_like_gpu, nodes)):
        said = f"no node offers it, though there are GPU nodes; {lacking} waits for it"
        return problem(Area.GPUS, "gpus-missing", name, said, INSTALL)
    said = f"no node offers it; {lacking} waits for it"
    fix = f"add GPU nodes ({INSTALL}), set capacity.provisioner: Karpenter, or runtime.device: CPU"
    return problem(Area.GPUS, "gpus-missing", name, said, fix)


def _without_offer(seen: Seen, node: Manifest, wanted: list[str]) -> Finding:
    """Return that a GPU node offers nothing: a problem where a resource counts on it, for there may be nodes of other uses."""
    subject = f"Node {node['metadata']['name']}"
    said = f"{label(node, INSTANCE_TYPE_LABEL) or 'has GPUs by its labels'}, offers none of {', '.join(wanted)}"
    fix = f"see why {PLUGIN} does not run there, else {INSTALL}"
    created = timestamp(node["metadata"].get("creationTimestamp")) or seen.server.now
    if seen.server.now - created < BOOT:
        return note(Area.GPUS, "gpu-node-boots", subject, f"{said} yet; it is new")
    if label(node, DEPLOYMENT_LABEL) or any(each.gpu_resource and not each.is_karpenter for each in seen.asked):
        return problem(Area.GPUS, "gpu-not-offered", subject, said, fix)
    return note(Area.GPUS, "gpu-not-offered", subject, f"{said}; no resource runs there", fix)


def _no_plugin(nodes: Many, users: tuple[Asked, ...]) -> Finding:
    names = {each.gpu_resource for each in users if each.gpu_resource}
    if not isinstance(nodes, Unread) and any(offered(node, name) for node in nodes for name in names):
        return note(Area.GPUS, "device-plugin-unknown", PLUGIN, "no DaemonSet of it, but nodes offer GPUs: they bring it along")
    said = f"no DaemonSet of it in any namespace: nodes of {named_by(users)} will offer no GPU"
    return problem(Area.GPUS, "device-plugin-missing", PLUGIN, said, INSTALL)


def _plugin(plugin: Manifest, taints: list[str], users: tuple[Asked, ...]) -> Finding:
    metadata, status = plugin["metadata"], plugin.get("status") or {}
    subject = f"DaemonSet {metadata['namespace']}/{metadata['name']}"
    refused = [taint for taint in taints if not _tolerates(plugin, taint)]
    if refused:
        said = f"does not tolerate {' and '.join(refused)}: it never gets onto the nodes of {named_by(users)}"
        fix = "give it tolerations: [{operator: Exists}], by the values of its own chart"
        return problem(Area.GPUS, "device-plugin-kept-out", subject, said, fix)
    wanted, ready = int(status.get("desiredNumberScheduled") or 0), int(status.get("numberReady") or 0)
    if ready < wanted:
        fix = f"kubectl logs --namespace {metadata['namespace']} daemonset/{metadata['name']}"
        return problem(Area.GPUS, "device-plugin-not-ready", subject, f"ready on {ready} of {wanted} nodes", fix)
    tolerated = f", tolerates {' and '.join(taints)}" if taints else ""
    return ok(Area.GPUS, "device-plugin", subject, f"ready on {ready} of {wanted} nodes{tolerated}")


def looks_like_gpu(node: Manifest) -> bool:
    """Whether a node has GPUs of NVIDIA, by its labels; what it offers is another question."""
    instance_type = label(node, INSTANCE_TYPE_LABEL) or ""
    return (
        any(label(node, name) not in (None, "false") for name in GPU_LABELS)
        or instance_type in INSTANCE_TYPES
        or bool(GPU_FAMILIES.match(instance_type))
    )


def offered(node: Manifest, name: str) -> int:
    """Return how many of an extended resource a node offers."""
    return int(((node.get("status") or {}).get("allocatable") or {}).get(name) or 0)


def is_plugin(daemon_set: Manifest) -> bool:
    """Whether a DaemonSet makes nodes offer their GPUs."""
    name = daemon_set["metadata"]["name"]
    images = [container["image"] for container in daemon_set["spec"]["template"]["spec"]["containers"]]
    return not OTHER_PARTS.search(name) and any(PLUGIN_PATTERN.search(text) for text in (name, *images))


def brings_own_plugin(seen: Seen, asked: Asked) -> bool:
    """Whether the nodes of a resource run the device plugin themselves: EKS Auto Mode, Bottlerocket, and simulated ones."""
    wanted = asked.node_class
    if not asked.is_karpenter or wanted is None:
        return False
    found = seen.node_classes.get(wanted)
    spec: Mapping[str, Any] = {} if found is None or isinstance(found, Unread) else found.get("spec") or {}
    images = [str(spec.get("amiFamily") or ""), *(str(term.get("alias") or "") for term in spec.get("amiSelectorTerms") or ())]
    return wanted.group in (EKS_AUTO_MODE, KWOK) or any(image.lower().startswith(BOTTLEROCKET) for image in images)


def _nvidia(node: Manifest, more: tuple[str, ...] | list[str]) -> set[str]:
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    return {*more, *(name for name in allocatable if name.startswith("nvidia.com/"))}


def _tolerates(daemon_set: Manifest, key: str) -> bool:
    """Whether pods of a DaemonSet may run on nodes with this taint, whatever its value, of effect NoSchedule."""
    tolerations = daemon_set["spec"]["template"]["spec"].get("tolerations") or ()
    return any(
        entry.get("operator") == "Exists"
        and entry.get("key") in (None, "", key)
        and entry.get("effect") in (None, "", "NoSchedule")
        for entry in tolerations
    )
