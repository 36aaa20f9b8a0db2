"""`transcriber status`: the command, once or as things change."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Final, Literal

import typer
from rich.live import Live

from transcriber_cli.cluster import AllNamespaces, CannotLookError, Kubeconfig, KubeContext, Namespace, open_cluster, refuse_both
from transcriber_cli.console import expected_errors, say, stdout_console, waiting, write_result
from transcriber_cli.status.drawing import drawing
from transcriber_cli.status.look import Seen, look
from transcriber_cli.status.view import StatusView, status_view

WATCH_SECONDS: Final = 2.0
Name = Annotated[str | None, typer.Argument(help="Name of a TranscriberDeployment; default: all.", metavar="NAME")]
Output = Annotated[Literal["tree", "json"], typer.Option("-o", "--output", help="json: for programs; with -w a line a change.")]
Watch = Annotated[bool, typer.Option("-w", "--watch", help="Go on, and show what changes; Ctrl-C ends it.")]


def status_command(
    name: Name = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    output: Output = "tree",
    watch: Watch = False,
    context: KubeContext = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show resources as trees: pools, pods with where their start is, and the nodes with GPU, zone and kind of capacity.

    Looks at the namespace of the context unless one is named.

    Example: `transcriber status whisper-large-v3 --namespace speech --watch`
    """
    refuse_both(namespace, all_namespaces)
    if name and all_namespaces:
        raise typer.BadParameter("a NAME is of one namespace; leave --all-namespaces out")
    with expected_errors(), open_cluster(kubeconfig, context) as cluster:
        where = None if all_namespaces else namespace or cluster.namespace
        see = partial(look, cluster, where, name)
        if watch:
            _watch(see, output)
            return
        with waiting(f"looking at {cluster.context}"):
            seen = see()
        view = status_view(seen)
        if output == "json":
            write_result(view.model_dump_json(indent=2))
        elif not view.resources:
            say(f"no TranscriberDeployments in {f'namespace {where}' if where else 'any namespace'}")
        else:
            stdout_console().print(drawing(view, seen.now))


def follow(see: Callable[[], Seen], pause: Callable[[], None]) -> Iterator[tuple[Seen, StatusView, bool]]:
    """Look again and again; yields what was seen, and whether it is new. That a server is away for a while is told."""
    before: StatusView | None = None
    while True:
        try:
            seen = see()
        except CannotLookError as error:
            if before is None:
                raise
            say(str(error))
        else:
            view = status_view(seen)
            yield seen, view, view != before
            before = view
        pause()


def _watch(see: Callable[[], Seen], output: str) -> None:
    console = stdout_console()
    steps = follow(see, partial(time.sleep, WATCH_SECONDS))
    if output == "json" or not console.is_terminal:
        for seen, view, is_new in steps:
            if is_new and output == "json":
                write_result(view.model_dump_json())
            elif is_new:
                console.print(drawing(view, seen.now))
        return
    with Live(console=console, auto_refresh=False) as live:
        for seen, view, _ in steps:
            live.update(drawing(view, seen.now), refresh=True)
