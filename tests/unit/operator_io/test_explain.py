"""`transcriber explain`: a pass as tables and as JSON, from an operator and from a dump."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from tests.unit.operator_io.parts import START, observed, resource
from transcriber_cli.__main__ import app
from transcriber_operator.debug import Explanation
from transcriber_operator.decide.decision import Decision
from transcriber_operator.decide.pipeline import decide


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["explain", *arguments], env={"COLUMNS": "400", "TERM": "dumb"})


@pytest.fixture
def explanation(root_dir: Path) -> Explanation:
    spec = yaml.safe_load((root_dir / "examples" / "whisper-base.yaml").read_text())["spec"]
    seen = observed(
        resource=resource(spec=spec),
        children=(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"namespace": "speech", "name": "whisper-[red]", "uid": "u", "resourceVersion": "1"},
                "spec": {"replicas": 3},
                "status": {"readyReplicas": 2},
            },
        ),
        pods=(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"namespace": "speech", "name": "pod-1", "uid": "p"},
                "spec": {"nodeName": "node-1"},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
            },
        ),
    )
    return Explanation(observed=seen, now=START, decision=decide(seen, START), pass_seconds=0.25)


@pytest.fixture
def dump(explanation: Explanation, tmp_path: Path) -> Path:
    file = tmp_path / "dump.json"
    file.write_text(explanation.model_dump_json(by_alias=True))
    return file


def test_a_dump_is_shown_as_tables_and_decided_anew(dump: Path, explanation: Explanation) -> None:
    result = run("--file", str(dump))
    assert result.exit_code == 0, result.output
    assert "TranscriberDeployment speech/whisper, generation 1: decided 2026-01-31 12:00:00 UTC, 0.25 s in all" in result.output
    assert "whisper-[red]" in result.output
    assert "2/3 ready" in result.output
    assert "Running, ready on node-1" in result.output
    for apply in explanation.decision.apply:
        assert apply.manifest["metadata"]["name"] in result.output
    for condition in explanation.decision.status.conditions if explanation.decision.status else ():
        assert condition.type in result.output
    assert "The same as was recorded." in result.output


def test_a_dump_that_this_version_decides_otherwise_about_says_so(dump: Path, explanation: Explanation) -> None:
    other = explanation.model_copy(update={"decision": Decision(details=("by an older version",))})
    dump.write_text(other.model_dump_json(by_alias=True))
    result = run("--file", str(dump))
    assert "This is not what was recorded then." in result.output
    assert "by an older version" not in result.output


def test_json_of_a_dump_can_be_read_again(dump: Path, explanation: Explanation) -> None:
    result = run("--file", str(dump), "--json")
    assert Explanation.model_validate_json(result.stdout) == explanation


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "the file: Invalid JSON"),
        ("{}", "observed: Field required; a dump is what `transcriber explain --json` prints"),
        ('{"observed": {"resource": {}}}', "observed.installation: Field required"),
    ],
)
def test_a_file_that_is_no_dump_is_refused_with_the_field(content: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "dump.json"
    file.write_text(content)
    result = run("--file", str(file))
    assert result.exit_code == 1
    assert words in result.output


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = run("--file", str(tmp_path / "absent.json"))
    assert result.exit_code == 1
    assert "absent.json: cannot be read: No such file or directory" in result.output


@pytest.mark.parametrize("arguments", [[], ["whisper", "--file", "dump.json"]])
def test_either_a_name_or_a_dump_is_needed(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "give either the NAME of a resource or a dump with --file" in result.output


@pytest.fixture
def operator(explanation: Explanation) -> Iterator[str]:
    class Debug(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/debug/speech/whisper"
            body = explanation.model_dump_json(by_alias=True) if known else '{"error": "no pass of it"}'
            if self.path.endswith("/nonsense"):
                body = "<html>"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Debug)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_operator_is_asked_for_its_last_pass(operator: str, explanation: Explanation) -> None:
    result = run("whisper", "--namespace", "speech", "--address", operator, "--json")
    assert Explanation.model_validate_json(result.stdout) == explanation
    assert "2/3 ready" in run("whisper", "-n", "speech", "--address", operator).output


def test_what_the_operator_does_not_know_is_told_in_its_words(operator: str) -> None:
    result = run("other", "--namespace", "speech", "--address", operator)
    assert (result.exit_code, result.output.strip()) == (1, "error: no pass of it")
    assert "answered 404; is that the operator's debug address?" in run("nonsense", "--address", operator).output


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:http"])
def test_an_operator_that_does_not_answer_is_told_with_the_command_to_reach_it(address: str) -> None:
    result = run("whisper", "--address", address)
    assert result.exit_code == 1
    assert "kubectl port-forward" in result.output
