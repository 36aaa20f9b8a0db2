"""`python -m transcriber_exporter.trial`: what `helm test` runs.

It looks whether the API server serves TranscriberDeployments, and whether an operator renews its Lease. Then it transcribes the
bundled clip on each resource that is Ready, over its Service, and compares the words: a line for each. Exit code 0 if all is well,
1 with the reason if not. Resources that are not Ready are named, and are no failure of the installation.

Example, away from the cluster, with `kubectl port-forward --namespace speech service/whisper 8001`:
  python -m transcriber_exporter.trial --namespace transcriber-system --api https://HOST:PORT --account FOLDER \\
      --at speech/whisper=127.0.0.1:8001
"""

import argparse
import asyncio
import os
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from transcriber_exporter.canary import Outcome
from transcriber_exporter.endpoint import Endpoint
from transcriber_exporter.triton import Triton

GROUP_VERSION: Final = "serving.transcriber.dev/v1alpha1"
GRPC_PORT: Final = 8001
METRICS_PORT: Final = 8002
CANARY_SECONDS: Final = 60.0  # for one resource: it may stand behind others' work
LEASE_SECONDS: Final = 60.0  # in which an operator renews its Lease a dozen times
POLL_SECONDS: Final = 1.0
CALL_TIMEOUT: Final = aiohttp.ClientTimeout(total=10.0)
ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
NEXT: Final = "apply a TranscriberDeployment, such as one of examples/, and run helm test again when kubectl get td says Ready"
Manifest = Mapping[str, Any]


class TrialError(Exception):
    """It did not go well; the message says what to do."""


@dataclass(frozen=True)
class Finding:
    """What became of one resource: None where there was nothing to try."""

    name: str
    passed: bool | None
    message: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


class Api:
    """The two reads that a trial takes, with the token of a service account."""

    def __init__(self, url: str, account: Path, session: aiohttp.ClientSession) -> None:
        self._url = url.rstrip("/")
        self._session = session
        token = (account / "token").read_text(encoding="utf-8").strip()
        self._headers = {"Authorization": f"Bearer {token}"}
        self._tls = ssl.create_default_context(cafile=str(account / "ca.crt"))

    async def resources(self, namespace: str | None) -> list[Manifest]:
        """Return the TranscriberDeployments of a namespace, or of all; raises TrialError."""
        within = f"/namespaces/{namespace}" if namespace else ""
        found = await self._get(f"/apis/{GROUP_VERSION}{within}/transcriberdeployments")
        if found is None:
            raise TrialError(
                "the API server knows no TranscriberDeployment; install its CustomResourceDefinition: crds.enabled=true"
            )
        items: list[Manifest] = found["items"]
        return items

    async def renewal(self, namespace: str, lease: str) -> str:
        """Return who renewed the Lease and when, as it says, and nothing where nobody holds it; raises TrialError."""
        found = await self._get(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{lease}")
        spec = (found or {}).get("spec") or {}
        return f"{spec['holderIdentity']} {spec.get('renewTime')}" if spec.get("holderIdentity") else ""

    async def _get(self, path: str) -> dict[str, Any] | None:
        """Return an answer, None for 404; raises TrialError."""
        try:
            async with self._session.get(self._url + path, headers=self._headers, ssl=self._tls, timeout=CALL_TIMEOUT) as answer:
                if answer.status == 404:
                    return None
                body = await answer.json(content_type=None)
                if answer.status != 200:
                    raise TrialError(f"GET {path}: {answer.status} {body.get('message') if isinstance(body, dict) else body}")
                return dict(body)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise TrialError(f"the API server at {self._url} does not answer: {error or type(error).__name__}") from error


def reason_to_pass_over(resource: Manifest) -> str | None:
    """Return why a resource cannot be tried now; None if it can."""
    status = resource.get("status") or {}
    ready: Manifest = next((entry for entry in status.get("conditions") or () if entry["type"] == "Ready"), {})
    if ready.get("status") != "True":
        return f"not Ready, so not tried: {ready.get('reason', 'no status yet')}. {ready.get('message', '')}".rstrip(". ")
    return None if status.get("readyReplicas") else "Ready with no replica, so not tried: there is no work, and one comes with it"


async def try_out(resource: Manifest, address: Endpoint | None, session: aiohttp.ClientSession) -> Finding:
    """Transcribe the clip on one resource, over its Service or at an address."""
    namespace, name = (resource["metadata"][field] for field in ("namespace", "name"))
    full_name = f"{namespace}/{name}"
    if reason := reason_to_pass_over(resource):
        return Finding(full_name, None, reason)
    endpoint = address or Endpoint(f"{name}.{namespace}.svc", GRPC_PORT)
    triton = Triton(endpoint, f"http://{name}-metrics.{namespace}.svc:{METRICS_PORT}/metrics", session)
    result = await triton.run_canary(CANARY_SECONDS)
    if result.outcome is Outcome.PASSED:
        return Finding(full_name, True, f"transcribed the clip rightly in {result.duration_seconds:.1f} s, at {endpoint}")
    return Finding(full_name, False, f"{result.message}, at {endpoint}")


async def await_operator(api: Api, namespace: str, lease: str) -> str:
    """Wait until an operator renews its Lease, by nobody's clock; returns who; raises TrialError."""
    until = time.monotonic() + LEASE_SECONDS
    first = await api.renewal(namespace, lease)
    while (renewal := await api.renewal(namespace, lease)) == first or not renewal:
        if time.monotonic() > until:
            raise TrialError(
                f"no operator has renewed Lease {namespace}/{lease} within {LEASE_SECONDS:.0f} s; "
                f"see kubectl logs --namespace {namespace} --selector app.kubernetes.io/component=operator"
            )
        await asyncio.sleep(POLL_SECONDS)
    return renewal.split()[0]


async def run(options: argparse.Namespace) -> bool:
    """Do the trial and tell it; returns whether all that was tried is well. Raises TrialError."""
    async with aiohttp.ClientSession() as session:
        try:
            api = Api(options.api, options.account, session)
        except OSError as error:
            raise TrialError(f"--account {options.account}: {error}; give a folder with token and ca.crt") from error
        resources = [found for namespace in options.served_namespace or (None,) for found in await api.resources(namespace)]
        holder = await await_operator(api, options.namespace, options.lease)
        say(f"operator {holder} is at work")
        addresses, findings = dict(options.at), []
        for resource in resources:
            full_name = "{namespace}/{name}".format_map(resource["metadata"])
            findings.append(await try_out(resource, addresses.get(full_name), session))
            say(str(findings[-1]))
    if not any(finding.passed for finding in findings):
        say(f"no TranscriberDeployment was tried; {NEXT}")
    return all(finding.passed is not False for finding in findings)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        is_well = asyncio.run(asyncio.wait_for(run(options), options.timeout_seconds))
    except TrialError as error:
        say(f"failed: {error}")
        return 1
    except TimeoutError:
        say(f"failed: not done within {options.timeout_seconds:.0f} s")
        return 1
    if not is_well:
        say("failed: see above")
    return 0 if is_well else 1


def say(line: str) -> None:
    """Tell whoever reads the pod's log."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _address(text: str) -> tuple[str, Endpoint]:
    name, separator, endpoint = text.partition("=")
    if not (separator and name.count("/") == 1):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form NAMESPACE/NAME=HOST:PORT, such as speech/whisper=127.0.0.1:8001"
        )
    return name, Endpoint.parse(endpoint)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m transcriber_exporter.trial", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    in_pod = Endpoint(
        os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc"), int(os.environ.get("KUBERNETES_SERVICE_PORT", 443))
    )
    parser.add_argument("--namespace", required=True, help="namespace of the operator")
    parser.add_argument("--lease", default="transcriber-operator", metavar="NAME", help="its Lease; default %(default)s")
    parser.add_argument(
        "--served-namespace",
        action="append",
        default=[],
        metavar="NAMESPACE",
        help="a namespace that it serves; may be repeated; default: all of the cluster",
    )
    parser.add_argument("--timeout-seconds", type=float, default=120.0, metavar="S", help="for all of it; default %(default)g")
    parser.add_argument(
        "--api", default=f"https://{in_pod}", metavar="URL", help="the API server; default: that of this pod's cluster"
    )
    parser.add_argument("--account", type=Path, default=ACCOUNT, metavar="FOLDER", help="has token and ca.crt; default %(default)s")
    parser.add_argument(
        "--at", type=_address, action="append", default=[], metavar="NAMESPACE/NAME=HOST:PORT", help="where else one is reached"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
