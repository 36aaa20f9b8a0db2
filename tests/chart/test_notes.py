"""What helm says after an installation: the next commands, and what is missing."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.chart.rendering import CHART, KARPENTER, MONITORING, one, rendered

OPERATOR = ("serving.transcriber.dev/v1alpha1",)
QUIET: dict[str, Any] = {"global": {"imageRegistry": "registry.example.com"}}  # all is well: nothing to note


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with its notes in a ConfigMap: `helm template` shows no others."""
    folder = tmp_path_factory.mktemp("notes") / "chart"
    shutil.copytree(CHART, folder)
    notes = folder / "templates" / "NOTES.txt"
    (folder / "templates" / "_notes.tpl").write_text(f'{{{{- define "notes" }}}}{notes.read_text(encoding="utf-8")}{{{{- end }}}}')
    notes.unlink()
    config_map = 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata: {notes: {{ include "notes" . | toJson }}}\n'
    (folder / "templates" / "notes.yaml").write_text(config_map)
    return folder


def notes(chart: Path, values: dict[str, Any] | None = None, apis: tuple[str, ...] = KARPENTER, **options: Any) -> str:
    found = rendered({**QUIET, **(values or {})}, chart=chart, apis=apis, only="notes.yaml", **options)
    text: str = one(found, "ConfigMap")["data"]["notes"]
    return text


def warnings(text: str) -> list[str]:
    return [line.removeprefix("- ") for line in text.partition("\nNote:\n")[2].splitlines()]


def test_the_notes_lead_to_the_first_transcript(chart: Path) -> None:
    assert (
        notes(chart).strip("\n")
        == """\
transcriber-operator 0.1.0 is in namespace transcriber-system and serves the TranscriberDeployments of all namespaces.

See that it runs, and that the cluster has what it needs:

  kubectl rollout status deployment/transcriber-operator --namespace transcriber-system
  transcriber doctor

Then the first model, one for GPUs from the repository (for CPUs: examples/cluster/whisper-base.yaml):

  kubectl apply --namespace default -f examples/eks-large-v3.yaml
  kubectl wait --namespace default --for=condition=Ready td/whisper-large-v3 --timeout=30m

And the first transcript. Inside the cluster it is whisper-large-v3.default.svc:8001 (gRPC), and from here:

  kubectl port-forward --namespace default service/whisper-large-v3 8001
  transcriber transcribe RECORDING --endpoint 127.0.0.1:8001

A clip through every model that is ready:

  helm test transcriber-operator --namespace transcriber-system --logs"""
    )


def test_the_commands_are_for_the_release_and_a_namespace_that_is_served(chart: Path) -> None:
    values = {"watchNamespaces": ["speech", "captions"], "trial": {"enabled": False}, "namespaceOverride": "ears"}
    text = notes(chart, values, release="whisper")
    assert "is in namespace ears and serves the TranscriberDeployments of speech, captions." in text
    assert "deployment/whisper-transcriber-operator --namespace ears" in text
    assert "kubectl apply --namespace speech -f" in text
    assert "helm test" not in text


def test_files_that_the_notes_name_exist(root_dir: Path) -> None:
    text = (CHART / "templates" / "NOTES.txt").read_text(encoding="utf-8")
    named = set(re.findall(r"examples/[\w./-]+\w", text))
    assert len(named) == 2
    assert [name for name in named if not (root_dir / name).is_file()] == []


def test_where_all_is_well_nothing_is_noted(chart: Path) -> None:
    on = {"enabled": True}
    monitored = {
        "metrics": {"podMonitor": on, "serviceMonitor": on},
        "prometheusRule": {**on, "runbookBaseUrl": "https://git.example.com"},
    }
    assert warnings(notes(chart, monitored, (*KARPENTER, *MONITORING))) == []


@pytest.mark.parametrize(
    ("values", "apis", "said"),
    [
        ({"global": {"imageRegistry": ""}}, KARPENTER, "An image has no registry"),
        ({}, (), "Karpenter (karpenter.sh/v1) is not in the cluster"),
        ({"rbac": {"karpenter": False}}, KARPENTER, "rbac.karpenter is false, and Karpenter is in the cluster"),
        ({}, (*KARPENTER, *MONITORING), "The Prometheus operator is in the cluster: metrics.podMonitor"),
        ({"metrics": {"podMonitor": {"enabled": True}}}, KARPENTER, "The Prometheus operator (monitoring.coreos.com/v1) is not in"),
        ({"crds": {"enabled": False}}, KARPENTER, "crds.enabled is false, and the cluster has no CustomResourceDefinition"),
        ({"crds": {"keep": False}}, KARPENTER, "crds.keep is false: uninstalling deletes every TranscriberDeployment"),
        ({"cleanup": {"enabled": False}}, KARPENTER, "cleanup.enabled is false: before uninstalling, delete every"),
        ({"rbac": {"create": False}}, KARPENTER, "rbac.create is false: grant the ServiceAccount its rights"),
        ({"replicas": 0}, KARPENTER, "replicas is 0: no operator runs"),
    ],
)
def test_what_is_missing_is_noted_once_and_on_a_line_of_its_own(
    chart: Path, values: dict[str, Any], apis: tuple[str, ...], said: str
) -> None:
    [line] = warnings(notes(chart, values, apis))
    assert line.startswith(said)


def test_a_definition_of_others_is_enough(chart: Path) -> None:
    assert warnings(notes(chart, {"crds": {"enabled": False}}, (*KARPENTER, *OPERATOR))) == []


def test_rules_without_monitors_or_runbooks_are_noted(chart: Path) -> None:
    lines = warnings(notes(chart, {"prometheusRule": {"enabled": True}}, (*KARPENTER, *MONITORING)))
    assert [line.partition(" ")[0] for line in lines] == ["prometheusRule.enabled", "prometheusRule.runbookBaseUrl"]
