"""Where the API server is and as whom we speak to it: the same for our client and for Kopf."""

from pathlib import Path

import pytest
from kubernetes.aio.config import incluster_config

from tests.unit.operator_io.parts import write_kubeconfig
from transcriber_operator.cluster.credentials import load_configuration
from transcriber_operator.handlers.lifecycle import connection


@pytest.fixture
def token_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The files of a pod's service account."""
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("first")
    authority.write_text("a certificate")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return token


async def test_in_a_pod_kopf_gets_the_service_account_and_a_token_that_was_replaced_since(token_file: Path) -> None:
    found = await connection(None)
    assert (found.server, found.ca_path) == ("https://[fd00::1]:443", str(token_file.with_name("ca.crt")))
    assert found.as_http_headers() == {"Authorization": "bearer first"}
    token_file.write_text("second\n")
    assert (await connection(None)).as_http_headers() == {"Authorization": "bearer second"}


@pytest.mark.usefixtures("token_file")
async def test_a_kubeconfig_wins_over_the_pod(tmp_path: Path) -> None:
    found = await connection(write_kubeconfig(tmp_path / "config", "127.0.0.1:6443", token="mine"))
    assert found.server == "http://127.0.0.1:6443"
    assert found.as_http_headers() == {"Authorization": "Bearer mine"}


@pytest.mark.usefixtures("token_file")
async def test_a_proxy_of_the_environment_is_not_asked_for_the_api_server() -> None:
    configuration = await load_configuration(None)
    assert configuration.client_session_kwargs == {"trust_env": False}
