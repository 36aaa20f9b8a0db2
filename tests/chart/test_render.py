"""What the chart renders: valid for the API servers of four Kubernetes versions, tidy, and as reviewed."""

import json
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.chart.rendering import (
    CHART,
    MONITORING,
    NAMESPACE,
    VALUES_FILES,
    HelmError,
    Manifest,
    helm,
    one,
    pod_specs,
    read_values,
    rendered,
    template,
)
from transcriber_operator.settings import PREFIX, Settings, variable

ROOT = CHART.parents[1]
GOLDEN = Path(__file__).parent / "golden"
CRD = "transcriberdeployments.serving.transcriber.dev"
LONGEST_NAME = 63
NAMES = {file.name.removesuffix("-values.yaml"): file for file in VALUES_FILES}
KUBERNETES_VERSIONS = sorted({kubernetes_validate.utils.major_minor(each) for each in kubernetes_validate.utils.all_versions()})[
    -4:
]
# Values that are the same wherever the operator runs, or that its pod knows.
FIXED_SETTINGS = {"operator_namespace", "metrics_address", "health_address", "debug_address", "kubeconfig"}

every_values_file = pytest.mark.parametrize("name", NAMES)


def of(name: str) -> list[Manifest]:
    """The objects with a values file, in a cluster without Prometheus and Karpenter."""
    return rendered(read_values(NAMES[name]))


def place(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata'].get('namespace', '')}/{manifest['metadata']['name']}"


def labels_of(manifest: Manifest) -> Iterator[dict[str, str]]:
    """Labels of an object and of its pods."""
    yield manifest["metadata"].get("labels", {})
    if "template" in manifest.get("spec", {}):
        yield manifest["spec"]["template"]["metadata"]["labels"]


@pytest.fixture(scope="module")
def validate() -> Iterator[Callable[[Manifest, str], None]]:
    """Strict validation by the schemas of a Kubernetes version, which are read once and not at each object."""
    contents = kubernetes_validate.utils.schema_contents
    read: dict[str, Any] = {}

    def cached(filename: str, version: str) -> Any:
        if filename not in read:
            read[filename] = contents(filename, version)
        return read[filename]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_validate.utils, "schema_contents", cached)
        yield lambda manifest, version: kubernetes_validate.validate(manifest, version, strict=True)


def test_there_are_values_files_for_all_ways_to_install() -> None:
    assert len(VALUES_FILES) >= 12


def test_helm_lint_finds_nothing_with_any_values_file() -> None:
    given = [f"--values={file}" for file in VALUES_FILES[:1]]
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), *given)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_every_object_of_every_values_file_is_valid(validate: Callable[[Manifest, str], None], version: str) -> None:
    everything = {json.dumps(manifest, sort_keys=True): manifest for name in NAMES for manifest in of(name)}
    checked = [manifest for manifest in everything.values() if not manifest["apiVersion"].startswith("monitoring.")]
    for manifest in checked:
        validate(manifest, version)
    assert {manifest["kind"] for manifest in checked} >= {"Deployment", "DaemonSet", "Job", "Pod", "NetworkPolicy", "ClusterRole"}


def test_validation_refuses_a_field_that_does_not_exist(validate: Callable[[Manifest, str], None]) -> None:
    deployment = one(of("default"), "Deployment")
    with pytest.raises(kubernetes_validate.ValidationError):
        validate({**deployment, "spec": {**deployment["spec"], "replica": 1}}, KUBERNETES_VERSIONS[-1])


@every_values_file
def test_the_objects_are_as_reviewed(name: str, request: pytest.FixtureRequest) -> None:
    """A golden file has what differs from an installation without values; of files that are read whole it has the names."""
    unchanged = [] if name == "default" else of("default")
    differing = [shortened(manifest) for manifest in of(name) if manifest not in unchanged]
    text = yaml.safe_dump_all(differing, width=132)
    path = GOLDEN / f"{name}.yaml"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"{path.name} is missing; run pytest --update-golden and review it"
    assert text == path.read_text(encoding="utf-8"), f"{path.name} differs; if that is meant, run pytest --update-golden"


def shortened(manifest: Manifest) -> Manifest:
    match manifest["kind"]:
        case "CustomResourceDefinition":
            return {**manifest, "spec": "as in files/crds"}
        case "PrometheusRule":
            groups = [
                {**group, "rules": [rule.get("alert") or rule["record"] for rule in group["rules"]]}
                for group in manifest["spec"]["groups"]
            ]
            return {**manifest, "spec": {"groups": groups}}
        case "ConfigMap":
            return {
                **manifest,
                "data": {key: "as in files" if len(text) > 200 else text for key, text in manifest.get("data", {}).items()},
            }
        case _:
            return manifest


@every_values_file
def test_the_text_has_no_blank_lines_and_no_spaces_at_the_ends_of_lines(name: str) -> None:
    lines = template(read_values(NAMES[name])).splitlines()
    assert [line for line in lines if line != line.rstrip() or not line] == []


@every_values_file
def test_no_object_is_there_twice(name: str) -> None:
    places = [place(manifest) for manifest in of(name)]
    assert len(places) == len(set(places))


@every_values_file
def test_the_operator_accepts_the_settings(name: str, tmp_path: Path) -> None:
    container = one(of(name), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    environment = {each["name"]: each["value"] for each in container["env"] if each["name"].startswith(PREFIX)}
    (tmp_path / "namespace").write_text(NAMESPACE)
    Settings.from_environment(environment, tmp_path / "namespace")
    if name == "settings":
        assert set(environment) == {
            variable(field) for field in Settings.model_fields if field not in {*FIXED_SETTINGS, "namespaces"}
        }


def test_the_settings_without_values_are_the_operators_own() -> None:
    container = one(of("default"), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    given = {each["name"]: each["value"] for each in container["env"]}
    fields = Settings.model_fields
    assert {name: value for name, value in given.items() if str(fields[name.removeprefix(PREFIX).lower()].default) != value} == {
        "TRANSCRIBER_SERVING_IMAGE": "transcriber-serving:0.1.0",
        "TRANSCRIBER_METRICS_URL": "http://transcriber-operator.transcriber-system.svc:8080",
    }


def test_the_probes_ask_the_port_that_the_operator_listens_on() -> None:
    container = one(of("default"), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    defaults = {name: Settings.model_fields[f"{name}_address"].default.port for name in ("metrics", "health")}
    assert ports == defaults
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "health"}


def test_the_custom_resource_definition_is_the_generated_one() -> None:
    generated = yaml.safe_load((ROOT / "crds" / "serving.transcriber.dev_transcriberdeployments.yaml").read_text())
    found = one(of("default"), "CustomResourceDefinition", CRD)
    assert {**found, "metadata": {"name": found["metadata"]["name"]}} == generated
    assert found["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_custom_resource_definition_can_go_with_the_chart_or_be_left_to_others() -> None:
    assert one(of("disposable"), "CustomResourceDefinition")["metadata"]["annotations"] == {"example.com/owner": "tests"}
    assert "CustomResourceDefinition" not in {manifest["kind"] for manifest in of("own-crds")}


@pytest.mark.parametrize(
    ("image", "registry", "expected"),
    [
        ({}, "", "transcriber-operator:0.1.0"),
        ({"registry": "registry.example.com/speech"}, "", "registry.example.com/speech/transcriber-operator:0.1.0"),
        ({"registry": "registry.example.com", "tag": "1.0"}, "", "registry.example.com/transcriber-operator:1.0"),
        ({"registry": "registry.example.com"}, "mirror.example.com/", "mirror.example.com/transcriber-operator:0.1.0"),
        ({"tag": "1.0", "digest": f"sha256:{'1' * 64}"}, "", f"transcriber-operator@sha256:{'1' * 64}"),
    ],
)
def test_an_image_has_the_mirrors_registry_and_its_digest_before_its_tag(image: Manifest, registry: str, expected: str) -> None:
    found = rendered({"image": image, "global": {"imageRegistry": registry}}, only="deployment.yaml")
    assert one(found, "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"] == expected


def test_every_image_comes_from_the_mirror_with_its_secrets() -> None:
    pods = pod_specs(of("digests"))
    assert len(pods) == 4
    for pod in pods.values():
        assert pod["imagePullSecrets"] == [{"name": "mirror"}, {"name": "other"}]
        for container in pod["containers"]:
            assert re.fullmatch(r"registry\.example\.com/mirror/transcriber-(operator|serving)@sha256:[12]{64}", container["image"])


@pytest.mark.parametrize(
    ("release", "values", "expected"),
    [
        ("transcriber-operator", {}, "transcriber-operator"),
        ("my-transcriber-operator", {}, "my-transcriber-operator"),
        ("speech", {}, "speech-transcriber-operator"),
        ("speech", {"nameOverride": "whisper"}, "speech-whisper"),
        ("speech", {"fullnameOverride": "ears"}, "ears"),
        ("speech", {"fullnameOverride": f"{'a' * 62}-b"}, "a" * 62),
    ],
)
def test_names_follow_the_release(release: str, values: Manifest, expected: str) -> None:
    assert one(rendered(values, release=release, only="deployment.yaml"), "Deployment")["metadata"]["name"] == expected


def test_long_names_are_cut_where_labels_and_services_would_refuse_them() -> None:
    found = of("names")
    bounded = [manifest for manifest in found if not manifest["apiVersion"].startswith("rbac.")]  # roles' names may be paths
    assert [
        place(each) for each in bounded if len(each["metadata"]["name"]) > LONGEST_NAME and each["metadata"]["name"] != CRD
    ] == []
    assert len({each["metadata"]["name"] for each in bounded if each["kind"] == "NetworkPolicy"}) == 4
    values = [value for manifest in found for labels in labels_of(manifest) for value in labels.values()]
    assert max(map(len, values)) <= LONGEST_NAME
    assert [name for name in (each["metadata"]["name"] for each in found) if name.endswith("-")] == []


@every_values_file
def test_every_object_says_what_it_belongs_to(name: str) -> None:
    own = [manifest for manifest in of(name) if not manifest["metadata"]["name"].endswith(("authorities", "-text"))]
    for manifest in own:
        for labels in labels_of(manifest):
            assert labels.keys() >= {
                "app.kubernetes.io/name",
                "app.kubernetes.io/instance",
                "app.kubernetes.io/component",
                "app.kubernetes.io/managed-by",
                "app.kubernetes.io/part-of",
                "app.kubernetes.io/version",
                "helm.sh/chart",
            }, place(manifest)


def test_common_labels_and_annotations_are_on_every_object_and_pod() -> None:
    for manifest in of("names"):
        assert manifest["metadata"]["annotations"]["example.com/contact"] == "speech@example.com", place(manifest)
        for labels in labels_of(manifest):
            assert labels["example.com/cost-center"] == "4711", place(manifest)


def test_common_labels_replace_none_by_which_pods_are_chosen() -> None:
    found = rendered({"commonLabels": {"app.kubernetes.io/name": "other"}, "pdb": {"enabled": True}})
    deployment = one(found, "Deployment")
    assert deployment["spec"]["template"]["metadata"]["labels"].items() >= deployment["spec"]["selector"]["matchLabels"].items()
    assert one(found, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"]


def test_another_namespace_takes_all_that_has_one() -> None:
    namespaces = {manifest["metadata"].get("namespace") for manifest in of("names")}
    assert namespaces <= {None, "speech-system", "default"}  # default: the Role for Events about nodes
    subjects = [subject for manifest in of("names") for subject in manifest.get("subjects", ())]
    assert {subject["namespace"] for subject in subjects} == {"speech-system"}


def test_values_that_are_text_are_templates_where_that_is_said() -> None:
    assert one(of("names"), "ServiceAccount", "speech")["metadata"]["annotations"]["example.com/release"] == "transcriber-operator"
    added = {manifest["metadata"]["name"] for manifest in of("extras") if manifest["kind"] == "ConfigMap"}
    assert added == {"authorities", "transcriber-operator-text"}


def test_the_account_of_others_is_used_and_none_is_made() -> None:
    found = of("own-account")
    assert one(found, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "speech-operator"
    assert {manifest["kind"] for manifest in found} == {"CustomResourceDefinition", "Deployment", "Service"}


def test_the_namespaces_own_account_gets_no_rights() -> None:
    with pytest.raises(HelmError, match=r"serviceAccount\.name: name the ServiceAccount to use, or set serviceAccount\.create"):
        rendered({"serviceAccount": {"create": False}})


def test_a_new_operator_is_there_before_the_old_one_goes() -> None:
    assert one(of("default"), "Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_prometheus_kinds_are_rendered_only_where_the_cluster_has_them() -> None:
    kinds = {"PodMonitor", "ServiceMonitor", "PrometheusRule"}
    assert not kinds & {manifest["kind"] for manifest in of("eks")}
    assert kinds <= {manifest["kind"] for manifest in rendered(read_values(NAMES["eks"]), apis=MONITORING)}


def test_the_package_has_what_is_read_and_nothing_of_its_development(tmp_path: Path) -> None:
    said = helm("package", str(CHART), f"--destination={tmp_path}")
    [package] = tmp_path.iterdir()
    assert str(package) in said
    with tarfile.open(package) as archive:
        names = {name.removeprefix("transcriber-operator/") for name in archive.getnames()}
    files = {str(file.relative_to(CHART)) for file in CHART.rglob("*") if file.is_file()}
    assert files - names == {str(file.relative_to(CHART)) for file in VALUES_FILES}
    assert names <= files
