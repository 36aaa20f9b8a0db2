"""`python -m transcriber_operator.uninstall`: what `helm uninstall` runs first.

It ends the operator, alive or dead, waits until none of its pods can write, and takes the operator's finalizer off every
TranscriberDeployment. They serve on, and an operator that is installed later adopts them. With --delete-resources they are deleted
first, with their NodePools, and the operator has half the time to clean up after them. It may be run as often as one likes.

Example: python -m transcriber_operator.uninstall --namespace transcriber-system --deployment transcriber-operator \\
             --kubeconfig ~/.kube/config
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from transcriber_operator.clock import SystemClock
from transcriber_operator.cluster.kube import Kube
from transcriber_operator.errors import ForbiddenError, OperatorError
from transcriber_operator.metrics import Metrics
from transcriber_operator.uninstall.decisions import Target
from transcriber_operator.uninstall.procedure import Uninstall

PODS: Final = "app.kubernetes.io/name=transcriber-operator,app.kubernetes.io/component=operator"
BY_HAND: Final = (
    "helm uninstall --no-hooks goes without this; then take the finalizer off by hand, of each that kubectl get td -A lists: "
    """kubectl patch td NAME --namespace NAMESPACE --type=merge --patch='{"metadata": {"finalizers": null}}'"""
)
logger = logging.getLogger("transcriber_operator.uninstall")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code: 0 done, 1 not done, with a line that says why."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr, force=True)
    target = Target(
        namespace=options.namespace,
        deployment=options.deployment,
        pods=options.pods,
        served=tuple(options.served_namespace),
        deletes_resources=options.delete_resources,
    )
    try:
        asyncio.run(_run(target, options.kubeconfig, options.timeout_seconds))
    except ForbiddenError as error:
        logger.error("Not done for want of a right: %s. Grant it and try again. %s", error, BY_HAND)
    except OperatorError as error:
        logger.error("Not done: %s. Try again. %s", error, BY_HAND)
    else:
        return 0
    return 1


async def _run(target: Target, kubeconfig: Path | None, timeout_seconds: float) -> None:
    async with Kube(kubeconfig, Metrics()) as kube:
        uninstall = Uninstall(kube, target, SystemClock(), timeout_seconds)
        await uninstall.run()
    logger.info("done; TranscriberDeployments released: %d", uninstall.released)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m transcriber_operator.uninstall",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--namespace", required=True, help="namespace of the operator")
    parser.add_argument("--deployment", required=True, metavar="NAME", help="its Deployment")
    parser.add_argument("--pods", default=PODS, metavar="SELECTOR", help="labels of its pods; default %(default)s")
    parser.add_argument(
        "--served-namespace",
        action="append",
        default=[],
        metavar="NAMESPACE",
        help="a namespace that it served; may be repeated; default: all of the cluster",
    )
    parser.add_argument("--delete-resources", action="store_true", help="delete all TranscriberDeployments that it served")
    parser.add_argument("--timeout-seconds", type=_seconds, default=120.0, metavar="S", help="for all of it; default %(default)g")
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: the service account of this pod")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to 86400, such as 120")
    return seconds


if __name__ == "__main__":
    raise SystemExit(main())
