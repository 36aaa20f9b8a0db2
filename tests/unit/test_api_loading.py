import hashlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.api_rule_cases import BASE, patched
from transcriber_api.loading import MAX_BYTES, SpecError, load, parse

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
TEXT = """\
apiVersion: serving.transcriber.dev/v1alpha1
kind: TranscriberDeployment
metadata:
  name: speech
spec:
  model:
    target:
      uri: hf://openai/whisper-base
      revision: 06f233fe06e710322aca913c1bc4249a0d71fce1
  capacity:
    provisioner: None
    pools:
    - name: main
"""


def errors(text: str) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        parse(text, "a.yaml")
    assert str(caught.value) == "\n".join(caught.value.errors)
    return caught.value.errors


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_when_loaded_is_accepted_and_drafts_with_a_model(path: Path):
    assert load(path).spec.draft_source == "Model"


def test_both_examples_exist():
    assert {path.name for path in EXAMPLES} >= {"whisper-base.yaml", "eks-large-v3.yaml"}


def test_the_demo_example_pins_the_draft_that_lies_beside_it():
    draft = load(ROOT / "examples" / "whisper-base.yaml").spec.model.draft
    assert draft is not None
    folder = ROOT / "examples" / "models" / draft.uri.removeprefix("pvc://models/")
    assert {file.path: file.sha256 for file in draft.files} == {
        file.path: hashlib.sha256((folder / file.path).read_bytes()).hexdigest() for file in draft.files
    }


def test_a_good_document_is_read_with_its_defaults():
    spec = parse(TEXT, "a.yaml").spec
    assert (spec.scaling.target_wait_seconds, spec.decoding.language, spec.runtime.slots) == (60, "Auto", 32)


def test_every_error_is_told_in_the_order_of_the_lines():
    text = TEXT.replace("revision: 06f233fe06e710322aca913c1bc4249a0d71fce1", "revision: main").replace(
        "    - name: main",
        '    - nam: main\n      maxNodes: "3"\n  decoding: {language: english, maxDraftTokens: 17}\n  scalling: {}',
    )
    assert errors(text) == (
        "a.yaml:9: spec.model.target.revision: "
        "revision must be a 40-hex commit; a branch or tag such as main can move to other weights at any time",
        "a.yaml:13: spec.capacity.pools[0].name: is required",
        "a.yaml:13: spec.capacity.pools[0].nam: is no known field; did you mean name?",
        "a.yaml:14: spec.capacity.pools[0].maxNodes: must be a whole number, without quotes; got '3'",
        "a.yaml:15: spec.decoding.language: must be Auto or a language code of Whisper such as en, de or yue; got 'english'",
        "a.yaml:15: spec.decoding.maxDraftTokens: must be at most 16; got 17",
        "a.yaml:16: spec.scalling: is no known field; did you mean scaling?",
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("kind: TranscriberDeployment", "kind: Deployment", "a.yaml:2: kind: must be TranscriberDeployment; got 'Deployment'"),
        ("kind: TranscriberDeployment\n", "", "a.yaml:1: kind: must be TranscriberDeployment; got nothing"),
        ("/v1alpha1", "/v1", "a.yaml:1: apiVersion: must be serving.transcriber.dev/v1alpha1; got 'serving.transcriber.dev/v1'"),
        (
            "    provisioner: None",
            "    provisioner: none",
            "a.yaml:11: spec.capacity.provisioner: must be one of Karpenter, None; got 'none'",
        ),
        (
            "    pools:\n    - name: main\n",
            "    pools: []\n",
            "a.yaml:12: spec.capacity.pools: must have 1 to 16 entries; has 0",
        ),
        ("    pools:\n    - name: main\n", "    pools: main\n", "a.yaml:12: spec.capacity.pools: must be a list; got 'main'"),
        ("  name: speech", "  name: 3", "a.yaml:4: metadata.name: must be a string; quote it; got 3"),
        ("  model:\n", "  suspend: 'yes'\n  model:\n", "a.yaml:6: spec.suspend: must be true or false, without quotes; got 'yes'"),
        (
            "  model:\n",
            "  decoding: {language: no}\n  model:\n",
            "a.yaml:6: spec.decoding.language: must be a string; quote it; got false",
        ),
        ("  model:\n", "  decoding: 7\n  model:\n", "a.yaml:6: spec.decoding: must be an object; got 7"),
        ("  name: speech", "  name: speech\n  name: other", "a.yaml:5: metadata.name: is set twice, first in line 4"),
        ("  model:\n", "  <<: {}\n  model:\n", "a.yaml:6: spec: has a merge key (<<); write the fields out"),
    ],
)
def test_a_wrong_field_is_told_with_its_line_and_the_fix(old: str, new: str, expected: str):
    assert old in TEXT
    assert expected in errors(TEXT.replace(old, new))


def test_a_field_in_the_spelling_of_python_is_unknown():
    [message] = errors(TEXT.replace("pools:", "node_class_ref: {}\n    pools:"))
    assert message == "a.yaml:12: spec.capacity.node_class_ref: is no known field; did you mean nodeClassRef?"


def test_a_text_that_cannot_be_encoded_is_refused():
    assert "is not YAML" in errors(TEXT + "# \ud800")[0]


def test_an_unknown_field_near_none_is_told_with_the_known_ones():
    [message] = errors(TEXT + "  budget: {zzz: 1, perHour: '1'}\n")
    assert message == "a.yaml:14: spec.budget.zzz: is no known field; known are perHour, perMonth"


@pytest.mark.parametrize(
    "name", ["Speech", "-speech", "speech-", "a.b", "a/b", "..", "3speech", "a" * 53, "sprache\u00e9", "\U0001f600", ""]
)
def test_a_name_that_children_could_not_bear_is_refused(name: str):
    document = {**BASE, "metadata": {"name": name}}
    assert any("metadata.name: must be a DNS label" in line for line in errors(yaml.safe_dump(document)))


def test_a_name_of_52_characters_is_accepted():
    assert parse(yaml.safe_dump(patched({}, "a" * 52)), "a.yaml").metadata.name == "a" * 52


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a.yaml: is empty; write one TranscriberDeployment"),
        ("# only a comment\n---\n", "a.yaml: is empty; write one TranscriberDeployment"),
        (TEXT + "---\n" + TEXT, "a.yaml:15: holds 2 documents; give each TranscriberDeployment a file of its own"),
        ("- a\n- b\n", "a.yaml:1: must be an object with apiVersion, kind, metadata and spec"),
        ("a: [1\nb: 2\n", "a.yaml:2: is not YAML: expected ',' or ']', but got ':'"),
        ("a: *nowhere\n", "a.yaml:1: is not YAML: found undefined alias 'nowhere'"),
        (
            "a: !!python/object/apply:os.system [id]\n",
            "a.yaml:1: apiVersion: must be serving.transcriber.dev/v1alpha1; got nothing",
        ),
    ],
)
def test_what_is_not_one_object_is_refused(text: str, expected: str):
    assert errors(text)[0].startswith(expected)


def test_an_unknown_tag_on_a_value_is_refused():
    [message] = errors(TEXT.replace("name: speech", "name: !!python/name:os.system ''"))
    assert message.startswith("a.yaml:4: is not YAML: could not determine a constructor")


def test_a_lone_document_marker_before_or_after_changes_nothing():
    assert parse(f"---\n{TEXT}---\n", "a.yaml") == parse(TEXT, "a.yaml")


def test_anchors_are_read_as_kubectl_reads_them():
    text = TEXT.replace("uri: hf", "uri: &uri hf") + "  aliases: [*uri]\n"
    assert "spec.aliases[0]: must be a model name" in errors(text)[0]


def test_aliases_that_unfold_without_end_are_refused_quickly():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
    )
    assert "nests too deep or repeats too much" in errors(bomb)[0]


def test_an_object_inside_itself_is_refused():
    assert errors("# first\na: &a {b: *a}\n")[0].startswith("a.yaml:2: a.b.b")
    assert errors("# first\na: &a {b: *a}\n")[0].endswith("nests too deep or repeats too much")


def test_nesting_beyond_python_itself_is_refused():
    assert "nests too deep" in errors("[" * 30_000)[0]


def test_a_unicode_control_character_is_refused_as_bad_yaml():
    assert "is not YAML" in errors(TEXT.replace("speech", "spe\x00ech"))[0]


def test_a_file_of_more_than_a_mebibyte_is_refused(tmp_path: Path):
    path = tmp_path / "big.yaml"
    path.write_text(TEXT + "#" * MAX_BYTES)
    with pytest.raises(SpecError, match=r"big\.yaml: is larger than 1 MiB"):
        load(path)


def test_a_file_of_exactly_a_mebibyte_is_read(tmp_path: Path):
    path = tmp_path / "full.yaml"
    path.write_text(TEXT + "#" * (MAX_BYTES - len(TEXT)))
    assert load(path) == parse(TEXT, "a.yaml")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"name: \xc3\x28"])
def test_a_file_that_is_not_text_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "binary.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match="is not UTF-8 text"):
        load(path)


def test_a_missing_file_and_a_folder_are_told_as_such(tmp_path: Path):
    with pytest.raises(SpecError, match=r"none\.yaml: cannot be read: No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        load(tmp_path)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_with_the_origin_and_nothing_else_happens(text: str):
    try:
        parse(text, "a.yaml")
    except SpecError as error:
        refused = error.errors
    else:
        refused = ()
    assert all(line.startswith("a.yaml") for line in refused)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(
    field=st.sampled_from(["model", "decoding", "runtime", "repository", "scaling", "capacity", "budget", "aliases", "suspend"]),
    value=JSON,
)
def test_any_value_of_a_field_is_read_or_refused_by_that_field(field: str, value: object):
    document = {**BASE, "spec": {**BASE["spec"], field: value}}
    try:
        parse(yaml.safe_dump(document, allow_unicode=True), "a.yaml")
    except SpecError as error:
        refused = error.errors
    else:
        refused = ()
    assert [line for line in refused if f": spec.{field}" not in line and "is not YAML" not in line] == []


def test_a_long_refused_value_is_cut_short_in_the_message():
    [message] = errors(TEXT.replace("name: main", f"name: {'x' * 5000}"))
    assert len(message) < 300
