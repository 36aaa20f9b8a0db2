"""Every rule and every bound of the CRD, judged by a real API server: one object that it accepts, one that it refuses and why."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import yaml
from kubernetes.client import ApiException

from tests.api.bound_cases import WORDS, BoundCase, bound_cases, bounds
from tests.rig.control_plane import ControlPlane
from tests.unit.api_rule_cases import CASES, RuleCase, patched
from tests.unit.test_api_rules import CASE_IDS, every_rule
from tests.unit.test_api_schema import NODES
from transcriber_api.v1alpha1 import TranscriberDeployment

RESOURCE = ("serving.transcriber.dev", "v1alpha1", "default", "transcriberdeployments")
STORED = "stored"
BOUND_CASES = bound_cases()
MESSAGES = {rule.name: rule.message for rule in every_rule()}
Cause = tuple[str, str]


@dataclass(frozen=True)
class Judge:
    """The API server, asked what it would do."""

    objects: kubernetes.client.CustomObjectsApi

    def create(self, document: dict[str, Any], field_validation: str = "Strict") -> Any:
        """Return the object as it would be stored; raises ApiException."""
        return self.objects.create_namespaced_custom_object(*RESOURCE, document, dry_run="All", field_validation=field_validation)

    def write_status(self, status: Any) -> None:
        """Write the status of an object that is stored; raises ApiException."""
        self.objects.patch_namespaced_custom_object_status(
            *RESOURCE, STORED, {"status": status}, dry_run="All", field_validation="Strict"
        )

    def causes(self, document: dict[str, Any]) -> list[Cause]:
        """Return (field, message) of what it refuses; none where it accepts the object, and its status where it has one."""
        try:
            if "status" in document:
                self.write_status(document["status"])
            else:
                self.create(document)
        except ApiException as refusal:
            answer = body_of(refusal)
            assert answer["reason"] == "Invalid", answer["message"]
            return [(cause["field"], cause["message"]) for cause in answer["details"]["causes"]]
        return []


def body_of(refusal: ApiException) -> Any:
    return json.loads(refusal.body or "{}")


@pytest.fixture(scope="module")
def judge(control_plane: ControlPlane) -> Iterator[Judge]:
    with kubernetes.config.new_client_from_config(str(control_plane.kubeconfig)) as client:
        objects = kubernetes.client.CustomObjectsApi(client)
        objects.create_namespaced_custom_object(*RESOURCE, patched({}, STORED))
        yield Judge(objects)
        objects.delete_namespaced_custom_object(*RESOURCE, STORED)


@pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
def test_a_rule_when_kept_accepts_the_object(judge: Judge, case: RuleCase):
    assert judge.causes(patched(case.accepted, case.name)) == []


@pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
def test_a_rule_when_broken_refuses_the_field_with_its_sentence(judge: Judge, case: RuleCase):
    assert (case.path, f"Invalid value: {MESSAGES[case.rule]}") in judge.causes(patched(case.refused, case.name))


@pytest.mark.parametrize("case", BOUND_CASES, ids=str)
def test_a_value_at_its_bound_is_accepted(judge: Judge, case: BoundCase):
    assert judge.causes(case.accepted) == []


@pytest.mark.parametrize("case", BOUND_CASES, ids=str)
def test_a_value_beyond_its_bound_is_refused_at_its_field(judge: Judge, case: BoundCase):
    causes = judge.causes(case.refused)
    assert [message for field, message in causes if field == case.field and WORDS[case.keyword] in message], causes


def test_every_bound_and_every_rule_has_a_case_of_each_kind():
    assert {(case.path, case.keyword) for case in BOUND_CASES} == set(bounds())
    assert {case.rule for case in CASES} == set(MESSAGES)
    rules = [rule for node in NODES.values() for rule in node.get("x-kubernetes-validations", ())]
    assert {rule["message"] for rule in rules} == set(MESSAGES.values())


def test_an_unknown_field_is_refused_by_a_strict_client_and_dropped_for_others(judge: Judge):
    document = patched({"scaling": {"maxReplica": 3}})
    with pytest.raises(ApiException) as refusal:
        judge.create(document)
    assert 'unknown field "spec.scaling.maxReplica"' in body_of(refusal.value)["message"]
    assert "maxReplica" not in judge.create(document, field_validation="Ignore")["spec"]["scaling"]


def parsed(document: Any) -> TranscriberDeployment:
    return TranscriberDeployment.model_validate(document, by_alias=True, by_name=False)


def test_the_server_fills_in_the_same_defaults_as_the_models(judge: Judge):
    stored = judge.create(patched({}))
    assert parsed(stored).spec == parsed(patched({})).spec
    dumped = parsed(patched({})).spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    for section in ("decoding", "runtime", "repository", "scaling"):
        assert stored["spec"][section] == dumped[section]


def test_every_example_means_the_same_before_and_after_it_is_stored(judge: Judge, root_dir: Path):
    for example in sorted((root_dir / "examples").glob("*.yaml")):
        document = yaml.safe_load(example.read_text(encoding="utf-8"))
        assert parsed(judge.create(document)).spec == parsed(document).spec, example.name


def test_a_spec_written_to_status_and_a_status_written_on_creation_change_nothing(judge: Judge):
    created: Any = judge.create(patched({}) | {"status": {"replicas": 3}})
    assert "replicas" not in created.get("status", {})
    patch = {"spec": {"suspend": True}, "status": {"replicas": 3}}
    patched_status: Any = judge.objects.patch_namespaced_custom_object_status(*RESOURCE, STORED, patch, dry_run="All")
    assert (patched_status["spec"]["suspend"], patched_status["status"]["replicas"]) == (False, 3)
