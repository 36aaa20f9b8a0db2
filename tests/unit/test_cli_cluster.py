"""How `transcriber doctor` and `status` reach a cluster: kubeconfigs as kubectl reads them, and an API server that says no."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from typer.testing import CliRunner, Result

from transcriber_cli.__main__ import app
from transcriber_cli.cluster import CannotLookError, Unread, Why, at_once, open_cluster
from transcriber_operator.cluster.resources import POD, Resource

SECRET = Resource("v1", "Secret", "secrets")
REFUSAL = {"kind": "Status", "message": 'pods is forbidden: User "dev" cannot list\nresource "pods"', "code": 403}


class Api(ThreadingHTTPServer):
    """Answers what a test puts into `answers`, by path; notes the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {
            "/version": (200, {"gitVersion": "v1.33.1"}),
            "/apis": (
                200,
                {
                    "groups": [
                        {
                            "name": "apps",
                            "versions": [{"version": "v1beta1"}, {"version": "v1"}],
                            "preferredVersion": {"version": "v1"},
                        }
                    ]
                },
            ),
        }
        self.requests: list[tuple[str, dict[str, list[str]], str]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        self.server.requests.append((parts.path, query, self.headers["Accept"]))
        following = query.get("continue", [""])[0]
        status, document = self.server.answers.get(parts.path + following, (404, "404 page not found"))
        body = document.encode() if isinstance(document, str) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    server = Api()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No kubeconfig, no pod and no proxy of the machine."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def kubeconfig(folder: Path, url: str, **context: str) -> Path:
    file = folder / "kubeconfig"
    file.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [
                    {"name": "main", "context": {"cluster": "c", "user": "u", **context}},
                    {"name": "other", "context": {"cluster": "c", "user": "u", "namespace": "elsewhere"}},
                ],
                "current-context": "main",
            }
        )
    )
    return file


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERM": "dumb"})


def test_the_current_context_and_its_namespace_are_taken_unless_another_is_named(api: Api, tmp_path: Path) -> None:
    file = str(kubeconfig(tmp_path, api.url))
    with open_cluster(file, None) as cluster:
        assert (cluster.context, cluster.namespace, cluster.address) == ("main", "default", api.url)
        assert cluster.server().groups == {"apps": ("v1", "v1beta1")}
    with open_cluster(file, "other") as cluster:
        assert (cluster.context, cluster.namespace) == ("other", "elsewhere")


def test_the_kubeconfig_of_the_environment_may_be_several_files(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = kubeconfig(tmp_path, api.url)
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'absent'}:{file}")
    with open_cluster(None, None) as cluster:
        assert cluster.server().version == "v1.33.1"


def test_a_list_is_read_page_by_page_and_its_items_say_what_they_are(api: Api, tmp_path: Path) -> None:
    api.answers["/api/v1/pods"] = 200, {"items": [{"metadata": {"name": "a"}}], "metadata": {"continue": "more"}}
    api.answers["/api/v1/podsmore"] = 200, {"items": [{"metadata": {"name": "b"}}], "metadata": {}}
    with open_cluster(str(kubeconfig(tmp_path, api.url)), None) as cluster:
        found = cluster.select(POD, None, "app=x")
    assert not isinstance(found, Unread)
    assert [(pod["kind"], pod["metadata"]["name"]) for pod in found] == [("Pod", "a"), ("Pod", "b")]
    assert api.requests[0][1] == {"labelSelector": ["app=x"], "limit": ["500"]}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((403, REFUSAL), Unread(Why.FORBIDDEN, 'pods is forbidden: User "dev" cannot list resource "pods"')),
        ((404, {"message": "pods not found"}), Unread(Why.ABSENT, "pods not found")),
        ((503, "busy"), Unread(Why.FAILED, "/api/v1/pods answered 503: busy")),
        ((200, "<html>"), Unread(Why.FAILED, "/api/v1/pods answered 200: <html>")),
    ],
)
def test_what_the_server_refuses_is_a_value_with_its_words_on_one_line(
    answer: tuple[int, Any], expected: Unread, api: Api, tmp_path: Path
) -> None:
    api.answers["/api/v1/pods"] = answer
    with open_cluster(str(kubeconfig(tmp_path, api.url)), None) as cluster:
        assert cluster.select(POD) == expected


def test_whether_a_secret_exists_is_asked_without_its_content(api: Api, tmp_path: Path) -> None:
    api.answers["/api/v1/namespaces/speech/secrets/token"] = 200, {"kind": "Table"}
    with open_cluster(str(kubeconfig(tmp_path, api.url)), None) as cluster:
        assert cluster.has(SECRET, "speech", "token") is True
        assert cluster.has(SECRET, "speech", "other") is False
    _, query, accept = api.requests[0]
    assert (query, "as=Table" in accept) == ({"includeObject": ["None"]}, True)


def test_calls_side_by_side_return_in_order_and_raise_what_one_raised() -> None:
    assert at_once(lambda: 1, lambda: 2) == [1, 2]
    with pytest.raises(ZeroDivisionError):
        at_once(lambda: 1, lambda: 1 // 0)


@pytest.mark.parametrize("command", ["doctor", "status"])
def test_a_server_that_does_not_answer_is_one_line_and_exit_code_2(command: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        result = run(command, "--kubeconfig", str(kubeconfig(tmp_path, url)))
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert f"error: {url} (context main) does not answer: " in result.output
    assert "Connection refused" in result.output


def test_credentials_that_are_refused_are_told_with_what_to_do(api: Api, tmp_path: Path) -> None:
    api.answers["/version"] = 401, {"message": "Unauthorized"}
    result = run("doctor", "--kubeconfig", str(kubeconfig(tmp_path, api.url)))
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "refuses the credentials of context main; log in again" in result.output


def test_who_is_nobody_to_the_server_is_told_to_log_in(api: Api, tmp_path: Path) -> None:
    api.answers["/apis"] = 403, {"message": 'forbidden: User "system:anonymous" cannot get path "/apis"'}
    result = run("status", "--kubeconfig", str(kubeconfig(tmp_path, api.url)))
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "system:anonymous" in result.output
    assert "log in again" in result.output


def test_what_is_no_api_server_is_said(api: Api, tmp_path: Path) -> None:
    api.answers["/version"] = 200, "<html>"
    result = run("doctor", "--kubeconfig", str(kubeconfig(tmp_path, api.url)))
    assert result.exit_code == 2
    assert "is no Kubernetes API server: /version answered 200" in result.output


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (None, [], "does not exist; give one with --kubeconfig or in $KUBECONFIG"),
        ("{}", ["--context", "absent"], ""),
        ("{", [], "cannot be used"),
        ("", [], "cannot be used"),
        ("[]", [], "cannot be used"),
        ("clusters: []\ncontexts: []\nusers: []\n", [], "has no current context; choose one with --context"),
        (
            "current-context: main\nclusters: []\ncontexts: [{name: main, context: {cluster: x, user: y}}]\nusers: []\n",
            [],
            "name x",
        ),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_one_line_and_exit_code_2(
    content: str | None, arguments: list[str], words: str, tmp_path: Path
) -> None:
    file = tmp_path / "config"
    if content is not None:
        file.write_text(content)
    result = run("doctor", "--kubeconfig", str(file), *arguments)
    assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output
    assert f"error: kubeconfig {file}" in result.output
    assert words in result.output


def test_a_context_that_is_not_there_is_named(api: Api, tmp_path: Path) -> None:
    result = run("status", "--kubeconfig", str(kubeconfig(tmp_path, api.url)), "--context", "absent")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "has no context absent; `kubectl config get-contexts` lists what it has" in result.output


def test_in_a_pod_its_account_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    with pytest.raises(CannotLookError, match="Service"), open_cluster(None, None):  # this is no pod: its token is missing
        pass


def test_one_namespace_and_all_of_them_exclude_each_other() -> None:
    for command in ("doctor", "status"):
        result = run(command, "--namespace", "speech", "--all-namespaces")
        assert result.exit_code == 2
        assert "give either --namespace or --all-namespaces" in result.output
