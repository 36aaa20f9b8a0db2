"""The trial of `helm test`: what it says and when it fails, against an API server and a Triton that do as they are told."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from aiohttp import web
from tritonclient.grpc import service_pb2

from tests.rig.certificates import Authority
from tests.unit.exporter.process import NOBODY
from transcriber_exporter import trial
from transcriber_exporter.inference import METHOD
from transcriber_exporter.trial import TrialError, main, reason_to_pass_over

RIGHT = "The quick brown fox jumps over the lazy dog."
READY = {
    "conditions": [{"type": "Ready", "status": "True", "reason": "AsExpected", "message": "Replicas pass."}],
    "readyReplicas": 2,
}


def resource(name: str, status: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"metadata": {"namespace": "speech", "name": name}, "status": READY if status is None else status}


def not_ready(**condition: str) -> dict[str, Any]:
    return {"conditions": [{"type": "Ready", "status": "False", **condition}]}


class ApiServer:
    """Serves resources and a Lease that is renewed at every look, unless told otherwise."""

    def __init__(self, *resources: dict[str, Any]) -> None:
        self.resources = list(resources)
        self.status = 200
        self.holder = "operator-1"
        self.renewals = 0
        self.is_renewed = True
        self.paths: list[str] = []
        self.tokens: set[str | None] = set()

    async def answer(self, request: web.Request) -> web.Response:
        self.paths.append(request.path)
        self.tokens.add(request.headers.get("Authorization"))
        if request.path.endswith("/leases/transcriber-operator"):
            self.renewals += self.is_renewed
            spec = {"holderIdentity": self.holder, "renewTime": str(self.renewals)}
            return web.json_response({"spec": spec})
        if self.status != 200:
            return web.json_response({"message": "transcriberdeployments is forbidden"}, status=self.status)
        return web.json_response({"items": self.resources})


@asynccontextmanager
async def listening(server: ApiServer) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def triton_that_hears(text: str) -> AsyncIterator[str]:
    """Serve ModelInfer with one transcript for all; gives HOST:PORT."""

    async def infer(_: bytes, __: object) -> bytes:
        content = json.dumps({"text": text}).encode()
        message = service_pb2.ModelInferResponse(model_name="transcribe", model_version="1")
        message.outputs.add(name="RESULT", datatype="BYTES", shape=[1])
        message.raw_output_contents.append(len(content).to_bytes(4, "little") + content)
        return bytes(message.SerializeToString())

    _, service, method = METHOD.split("/")
    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(infer)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a pod finds of its service account."""
    folder = tmp_path_factory.mktemp("account")
    Authority(folder)  # writes ca.crt
    (folder / "token").write_text("secret\n")
    return folder


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(trial, "LEASE_SECONDS", 0.2)


async def tried(server: ApiServer, account: Path, *more: str) -> bool:
    async with listening(server) as url:
        given = ["--namespace=transcriber-system", f"--api={url}", f"--account={account}", *more]
        return await trial.run(trial._parser().parse_args(given))


async def test_the_clip_is_transcribed_on_every_resource_that_is_ready(account: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = ApiServer(resource("a"), resource("b"))
    async with triton_that_hears(RIGHT) as triton:
        assert await tried(server, account, f"--at=speech/a={triton}", f"--at=speech/b={triton}")
    operator, first, second = capsys.readouterr().out.splitlines()
    assert operator == "operator operator-1 is at work"
    assert first.startswith("speech/a: transcribed the clip rightly in ")
    assert second.startswith("speech/b: transcribed the clip rightly in ")
    assert server.tokens == {"Bearer secret"}


async def test_other_words_are_a_failure_and_are_not_repeated(account: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with triton_that_hears("Somebody's own words") as triton:
        assert not await tried(ApiServer(resource("a")), account, f"--at=speech/a={triton}")
    told = capsys.readouterr().out
    assert "speech/a: the canary's transcript has 9 errors in 9 words, at most 2 pass; check the weights" in told
    assert "Somebody" not in told


async def test_a_resource_that_says_ready_and_is_not_there_is_a_failure(
    account: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transcriber_exporter.triton.CONNECT_SECONDS", 0.2)
    assert not await tried(ApiServer(resource("a")), account, f"--at=speech/a={NOBODY}")
    assert f"speech/a: Triton does not listen on {NOBODY}" in capsys.readouterr().out


async def test_without_resources_it_is_well_and_says_what_to_do_next(account: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await tried(ApiServer(), account)
    assert "no TranscriberDeployment was tried; apply a TranscriberDeployment" in capsys.readouterr().out


async def test_a_resource_that_is_not_ready_is_named_with_its_reason_and_is_no_failure(
    account: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = not_ready(reason="DownloadingWeights", message="fetch target: 84 of 141 MiB.")
    assert await tried(ApiServer(resource("a", waiting), resource("b", {})), account)
    told = capsys.readouterr().out
    assert "speech/a: not Ready, so not tried: DownloadingWeights. fetch target: 84 of 141 MiB" in told
    assert "speech/b: not Ready, so not tried: no status yet" in told


def test_one_that_is_ready_with_no_replica_has_nothing_to_try() -> None:
    assert "no replica" in str(reason_to_pass_over(resource("a", {**READY, "readyReplicas": 0})))
    assert reason_to_pass_over(resource("a")) is None


async def test_only_the_namespaces_that_are_served_are_asked_for(account: Path) -> None:
    server = ApiServer()
    await tried(server, account, "--served-namespace=speech", "--served-namespace=voice")
    listed = [path for path in server.paths if path.endswith("/transcriberdeployments")]
    assert listed == [
        f"/apis/serving.transcriber.dev/v1alpha1/namespaces/{name}/transcriberdeployments" for name in ("speech", "voice")
    ]


@pytest.mark.parametrize(("status", "told"), [(404, "crds.enabled=true"), (403, "403 transcriberdeployments is forbidden")])
async def test_an_api_server_that_has_no_such_kind_or_refuses_it_is_a_failure(account: Path, status: int, told: str) -> None:
    server = ApiServer()
    server.status = status
    with pytest.raises(TrialError, match=told):
        await tried(server, account)


async def test_an_operator_that_does_not_renew_its_lease_is_none(account: Path) -> None:
    asleep, released = ApiServer(), ApiServer()
    asleep.is_renewed = False
    released.holder = ""
    for server in (asleep, released):
        with pytest.raises(TrialError, match="no operator has renewed Lease transcriber-system/transcriber-operator within 0 s"):
            await tried(server, account)


def test_an_api_server_that_does_not_answer_is_told_in_a_line(account: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--namespace=transcriber-system", f"--api=http://{NOBODY}", f"--account={account}"]) == 1
    assert f"failed: the API server at http://{NOBODY} does not answer" in capsys.readouterr().out


def test_a_folder_that_is_no_service_accounts_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--namespace=transcriber-system", f"--account={tmp_path}"]) == 1
    assert f"failed: --account {tmp_path}" in capsys.readouterr().out


def test_an_address_without_a_resource_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--namespace=transcriber-system", "--at=127.0.0.1:8001"])
    assert "is not of the form NAMESPACE/NAME=HOST:PORT" in capsys.readouterr().err
