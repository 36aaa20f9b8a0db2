"""The view as a tree for people."""

from collections.abc import Iterator
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from transcriber_cli.status.view import BuildView, EventView, NodeView, PodView, PoolView, ResourceView, StatusView

GOOD, BAD, BUSY = "green", "red", "yellow"


def drawing(view: StatusView, now: datetime) -> RenderableType:
    """Return a tree per resource, and what could not be read."""
    notes = [Text(f"not read: {line}", style="dim") for line in view.unread]
    return Group(*(_resource(each, now) for each in view.resources), *notes)


def _resource(view: ResourceView, now: datetime) -> Tree:
    style = GOOD if view.ready == "True" else BAD if view.stalled else BUSY
    state = {"True": "Ready", "False": "not Ready"}.get(view.ready, "not looked at")
    title = Text.assemble((f"{view.namespace}/{view.name}", "bold"), "  ", (state, style), f"  {view.reason}")
    title.append(f"  {_age(view.created_at, now)}", "dim")
    tree = Tree(title)
    if view.message:
        tree.add(Text(view.message, style="" if view.ready == "True" else style))
    flags = (
        (view.ending, "is being deleted"),
        (view.stalled, "stalled: nothing moves until someone acts"),
        (view.suspended, "suspended: the operator changes nothing"),
        (not view.is_current, "the operator has not looked at the present spec yet"),
    )
    for is_so, words in flags:
        if is_so:
            tree.add(Text(words, style=BUSY))
    for line in _figures(view):
        tree.add(Text(line))
    for build in view.builds:
        _add_build(tree, build, now)
    for pool in view.pools:
        _add_pool(tree, pool, now)
    if view.events:
        events = tree.add(Text("events", style="dim"))
        for event in view.events:
            events.add(_event(event, now))
    return tree


def _figures(view: ResourceView) -> Iterator[str]:
    model = f"model {view.model}{f', draft {view.draft}' if view.draft else ''}"
    if view.acceptance_percent is not None:
        model += f": {view.acceptance_percent} % of its tokens kept"
    if view.tokens_per_cycle is not None:
        model += f", {view.tokens_per_cycle} tokens per cycle"
    yield model
    if view.repository:
        size = f", {view.repository_bytes / 1e9:.2f} GB" if view.repository_bytes else ""
        yield f"repository {view.repository[:19]}{size}"
    load = [
        f"replicas {view.replicas}" if view.replicas else "",
        f"queue {view.queued_audio_seconds} s of audio" if view.queued_audio_seconds is not None else "",
        f"arriving {view.arrival_rate} s/s" if view.arrival_rate else "",
        f"${view.cost_per_hour} per hour" if view.cost_per_hour else "",
        f"${view.cost_per_audio_hour} per hour of audio" if view.cost_per_audio_hour else "",
    ]
    if any(load):
        yield ", ".join(part for part in load if part)


def _add_build(tree: Tree, build: BuildView, now: datetime) -> None:
    style = BAD if build.state == "Failed" else BUSY
    branch = tree.add(Text.assemble("Job ", build.job, "  ", (build.state.lower(), style), f"  {build.progress}".rstrip()))
    for pod in build.pods:
        _add_pod(branch, pod, now)


def _add_pool(tree: Tree, pool: PoolView, now: datetime) -> None:
    is_whole = pool.ready >= pool.desired
    text = Text.assemble(
        f"pool {pool.name} ({pool.capacity_type})  ", (f"{pool.ready}/{pool.desired} ready", GOOD if is_whole else BUSY)
    )
    parts = [
        f"{pool.nodes} nodes" if pool.nodes != 1 else "1 node",
        f"{pool.fallen_back_replicas} in place of spot" if pool.fallen_back_replicas else "",
        f"lead time {pool.lead_time_seconds} s" if pool.lead_time_seconds is not None else "",
        f"${pool.price_per_hour} per node and hour" if pool.price_per_hour else "",
    ]
    text.append("".join(f", {part}" for part in parts if part))
    if pool.reason:
        text.append(f"  {pool.reason}", BUSY)
    branch = tree.add(text)
    if pool.deployment:
        its = pool.deployment
        is_rolling = its.updated_replicas < len(its.pods) and its.updated_replicas < its.replicas
        rolling = f", {its.updated_replicas} of the present spec" if is_rolling else ""
        pods = branch.add(Text(f"Deployment {its.name}  {its.ready_replicas}/{its.replicas} ready{rolling}"))
        for pod in its.pods:
            _add_pod(pods, pod, now)
    for node in pool.waiting_nodes:
        branch.add(_node(node, now))


def _add_pod(branch: Tree, pod: PodView, now: datetime) -> None:
    phase = "Terminating" if pod.ending else pod.phase
    style = GOOD if pod.ready or pod.phase == "Succeeded" else BAD if pod.problem else BUSY
    text = Text.assemble(f"Pod {pod.name}  ", (f"{pod.containers_ready} {phase}", style))
    text.append(f", {pod.restarts} restart{'' if pod.restarts == 1 else 's'}, {_age(pod.created_at, now)}")
    if pod.stage:
        text.append(f"  {pod.stage}{f' for {_age(pod.stage_since, now)}' if pod.stage_since else ''}", BUSY)
    leaf = branch.add(text)
    if pod.problem:
        leaf.add(Text(pod.problem, style=BAD))
    if pod.node:
        leaf.add(_node(pod.node, now))


def _node(node: NodeView, now: datetime) -> Text:
    parts = " ".join(part for part in (node.instance_type, node.gpu, node.capacity_type, node.zone) if part)
    text = Text(f"Node {node.name}" if node.name else f"NodeClaim {node.claim}")
    if parts:
        text.append(f"  {parts}")
    if node.stage and node.stage != "Initialized":
        text.append(f"  {node.stage}", BUSY)
    if node.interrupted_since:
        text.append(f"  going since {_age(node.interrupted_since, now)}", BAD)
    elif node.is_disrupted:
        text.append("  being emptied", BUSY)
    elif node.ready is False:
        text.append("  not Ready", BAD)
    return text


def _event(event: EventView, now: datetime) -> Text:
    times = f" (x{event.count})" if event.count > 1 else ""
    style = BUSY if event.type == "Warning" else None
    return Text.assemble((f"{_age(event.at, now):>4} ", "dim"), (event.reason, style or ""), f"{times}  {event.message}")


def _age(since: datetime, now: datetime) -> str:
    """Return how long ago something was, as kubectl does: its largest unit, and the next one where that says much."""
    seconds = max(int((now - since).total_seconds()), 0)
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 600:
        return f"{seconds // 60}m{seconds % 60}s" if seconds % 60 else f"{seconds // 60}m"
    if seconds < 3 * 3600:
        return f"{seconds // 60}m"
    return f"{seconds // 3600}h" if seconds < 2 * 86400 else f"{seconds // 86400}d"
