"""Runs helm on the chart, away from the user's own configuration and from any cluster."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.rig.binaries import find_binaries
from tests.rig.recipes import RECIPES

Manifest = dict[str, Any]
Values = Mapping[str, Any]

CHART: Final = Path(__file__).parents[2] / "charts" / "transcriber-operator"
VALUES_FILES: Final = sorted((CHART / "ci").glob("*-values.yaml"))
RELEASE: Final = "transcriber-operator"
NAMESPACE: Final = "transcriber-system"
MONITORING: Final = tuple(f"monitoring.coreos.com/v1/{kind}" for kind in ("PodMonitor", "ServiceMonitor", "PrometheusRule"))
KARPENTER: Final = ("karpenter.sh/v1/NodePool",)
HELM_SECONDS: Final = 60.0


class HelmError(Exception):
    """helm failed; the message is what it said."""


def find_helm() -> Path:
    """Return helm; raises BuildError where it is not built."""
    return find_binaries(os.environ, [recipe for recipe in RECIPES if recipe.name == "helm"])["helm"]


def helm(*arguments: str) -> str:
    """Run helm and return its stdout; raises HelmError, and BuildError where helm is not built."""
    with tempfile.TemporaryDirectory(prefix="transcriber-helm-") as home:
        environment = {"HOME": home, "PATH": os.defpath}
        done = subprocess.run([find_helm(), *arguments], capture_output=True, text=True, timeout=HELM_SECONDS, env=environment)
    if done.returncode:
        raise HelmError(done.stderr.strip())
    return done.stdout


def template(
    values: Values | None = None,
    *,
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    apis: Sequence[str] = (),
    only: str | None = None,
    chart: Path = CHART,
) -> str:
    """Return what `helm template` writes; `apis` are what the cluster has, `only` one template. Raises HelmError."""
    return _template(json.dumps(values or {}), release, namespace, tuple(apis), only, chart)


@cache
def _template(values: str, release: str, namespace: str, apis: tuple[str, ...], only: str | None, chart: Path) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(values)
        file.flush()
        chosen = [f"--show-only=templates/{only}"] if only else []
        given = [f"--namespace={namespace}", f"--values={file.name}", *(f"--api-versions={api}" for api in apis), *chosen]
        return helm("template", release, str(chart), *given)


@cache
def manifests(text: str) -> tuple[Manifest, ...]:
    """Return the objects of a rendered chart; they are shared, so change copies only."""
    return tuple(manifest for manifest in yaml.load_all(text, Loader=yaml.CSafeLoader) if manifest)


def rendered(values: Values | None = None, **options: Any) -> list[Manifest]:
    """Return the objects of the chart, to be changed in copies only; options are those of `template`."""
    return list(manifests(template(values, **options)))


def one(found: Sequence[Manifest], kind: str, name: str | None = None) -> Manifest:
    """Return the one object of a kind, or of a kind and name."""
    [manifest] = [each for each in found if each["kind"] == kind and name in (None, each["metadata"]["name"])]
    return manifest


def pod_specs(found: Sequence[Manifest]) -> dict[str, Manifest]:
    """Return the pod specs in objects, by kind/name."""
    pods = {}
    for manifest in found:
        place = f"{manifest['kind']}/{manifest['metadata']['name']}"
        if manifest["kind"] == "Pod":
            pods[place] = manifest["spec"]
        elif "template" in manifest.get("spec", {}):
            pods[place] = manifest["spec"]["template"]["spec"]
    return pods


def read_values(file: Path) -> Manifest:
    """Return the values of a file."""
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}
