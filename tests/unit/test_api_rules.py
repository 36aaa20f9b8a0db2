import pytest
from pydantic import ValidationError

from tests.unit.api_rule_cases import CASES, COMMIT, RuleCase, patched
from transcriber_api.document import field_path
from transcriber_api.loading import _models_in
from transcriber_api.rules import ApiModel, Rule
from transcriber_api.v1alpha1 import Spec, TranscriberDeployment

CASE_IDS = [f"{case.rule}-{index}" for index, case in enumerate(CASES)]


def validate(document: dict[str, object]) -> TranscriberDeployment:
    return TranscriberDeployment.model_validate(document, by_alias=True, by_name=False)


def every_model(root: type[ApiModel] = TranscriberDeployment) -> set[type[ApiModel]]:
    inner = {model for field in root.model_fields.values() for model in _models_in(field.annotation)}
    return {root}.union(*(every_model(model) for model in inner))


def every_rule() -> list[Rule]:
    return [rule for model in every_model() for rule in model.rules]


@pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
def test_a_rule_when_kept_accepts_the_object(case: RuleCase):
    validate(patched(case.accepted, case.name))


@pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
def test_a_rule_when_broken_refuses_the_field_with_its_sentence(case: RuleCase):
    with pytest.raises(ValidationError) as caught:
        validate(patched(case.refused, case.name))
    broken = {(error["ctx"]["rule"], field_path(error["loc"])) for error in caught.value.errors() if error["type"] == "rule"}
    assert (case.rule, case.path) in broken


def test_every_rule_has_a_case():
    assert {rule.name for rule in every_rule()} == {case.rule for case in CASES}


def test_rule_names_and_messages_are_unique():
    rules = every_rule()
    assert len({rule.name for rule in rules}) == len(rules)
    assert len({rule.message for rule in rules}) == len(rules)


def test_several_broken_rules_of_one_object_are_all_told():
    with pytest.raises(ValidationError) as caught:
        validate(patched({"scaling": {"minReplicas": 5, "maxReplicas": 2, "replicas": 1}}))
    assert {error["loc"][-1] for error in caught.value.errors()} == {"minReplicas", "replicas"}


def test_a_null_field_counts_as_absent_like_on_the_api_server():
    document = patched({})
    document["spec"]["scaling"] = {"maxReplicas": None, "replicas": None}
    assert validate(document).spec.scaling.max_replicas == 20


def test_a_snake_case_field_in_a_document_is_refused():
    with pytest.raises(ValidationError, match="max_replicas"):
        validate(patched({"scaling": {"max_replicas": 3}}))


@pytest.mark.parametrize(
    ("scaling", "kind"),
    [({"maxReplicas": "3"}, "int_type"), ({"maxReplicas": 3.0}, "int_type"), ({"maxReplicas": True}, "int_type")],
)
def test_a_number_in_another_type_is_refused_rather_than_converted(scaling: dict[str, object], kind: str):
    with pytest.raises(ValidationError) as caught:
        validate(patched({"scaling": scaling}))
    assert caught.value.errors()[0]["type"] == kind


def test_the_objects_are_frozen():
    spec = validate(patched({})).spec
    with pytest.raises(ValidationError, match="frozen"):
        spec.suspend = True


@pytest.mark.parametrize(
    ("patch", "source"),
    [
        ({}, "None"),
        ({"model": {"draft": {"uri": "hf://distil-whisper/small", "revision": COMMIT}}}, "Model"),
        ({"decoding": {"draftSource": "PromptLookup"}}, "PromptLookup"),
    ],
)
def test_draft_source_auto_is_the_draft_model_when_there_is_one(patch: dict[str, object], source: str):
    spec: Spec = validate(patched(patch)).spec
    assert spec.draft_source == source


def test_draft_source_none_turns_a_given_draft_off():
    draft = {"uri": "hf://distil-whisper/small", "revision": COMMIT}
    assert validate(patched({"model": {"draft": draft}, "decoding": {"draftSource": "None"}})).spec.draft_source == "None"


@pytest.mark.parametrize("field", ["pools", "schedules", "files", "gpus", "aliases"])
def test_an_entry_given_twice_in_a_keyed_list_is_refused(field: str):
    file = {"path": "model.safetensors", "sha256": "0" * 64}
    schedule = {"name": "a", "cron": "0 8 * * *", "durationSeconds": 60, "minReplicas": 1}
    patch: dict[str, dict[str, object]] = {
        "pools": {"capacity": {"pools": [{"name": "a"}, {"name": "a", "capacityType": "Spot"}]}},
        "schedules": {"scaling": {"schedules": [schedule, schedule]}},
        "files": {"model": {"target": {"files": [file, file]}}},
        "gpus": {"capacity": {"pools": [{"name": "a", "gpus": ["l4", "l4"]}]}},
        "aliases": {"aliases": ["whisper-1", "whisper-1"]},
    }
    with pytest.raises(ValidationError, match="must be unique") as caught:
        validate(patched(patch[field]))
    assert caught.value.errors()[0]["loc"][-1] == field


def test_a_deployment_survives_a_round_trip_through_its_manifest():
    deployment = validate(patched({"scaling": {"maxReplicas": 7}, "runtime": {"resources": {"limits": {"cpu": 4}}}}))
    assert validate(deployment.model_dump(mode="json", exclude_none=True)) == deployment
