"""A whole Kubernetes control plane as plain processes on loopback, in a folder of its own; KWOK and Karpenter on request.

    with ControlPlane(find_binaries(os.environ)) as plane:
        plane.kubectl("get", "namespaces")

All methods block; in a coroutine call them with `asyncio.to_thread`. Every part dies with this process, however it ends.
"""

import json
import os
import secrets
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import yaml

from tests.rig import audit, karpenter, kwok, programs
from tests.rig.binaries import Binaries
from tests.rig.certificates import Authority, certificate_user, service_account_key, write_kubeconfig
from tests.rig.processes import Part, Program, Spawner, free_ports
from tests.rig.programs import Options, Site

CONTEXT_PREFIX: Final = "transcriber-test-"
PARTS: Final = (
    "etcd",
    "etcd-peer",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kwok",
    "karpenter",
    "karpenter-metrics",
)
START_SECONDS: Final = 60.0
KUBECTL_SECONDS: Final = 60.0
TOKEN_SECONDS: Final = 3600
GIVEN_UP_SECONDS: Final = 5.0  # for parts whose state nobody will read again


class KubectlError(Exception):
    """kubectl failed; the message is what it said."""


class ControlPlane:
    """etcd, kube-apiserver, kube-controller-manager, kube-scheduler; use as a context manager, which leaves no process behind."""

    def __init__(self, binaries: Binaries, options: Options | None = None) -> None:
        """Make keys and choose ports; nothing runs yet."""
        self.binaries = binaries
        self.options = _audited(options or Options())
        self.context = f"{CONTEXT_PREFIX}{secrets.token_hex(4)}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.context}-"))
        self.keep_logs = False
        self.authority = Authority(self.folder)
        self.site = Site(
            self.folder,
            self.authority,
            service_account_key(self.folder / "service-accounts.key"),
            self.authority.server("serving", programs.SERVER_NAMES, programs.server_addresses(self.options)),
            dict(zip(PARTS, free_ports(len(PARTS)), strict=True)),
        )
        self.server = self.site.url("kube-apiserver")
        admin = self.authority.client("admin", ["system:masters"])
        self.kubeconfig = self._write_kubeconfig("admin", certificate_user(admin), None)
        self.tls = ssl.create_default_context(cafile=str(self.authority.certificate))
        self.tls.load_cert_chain(admin.certificate, admin.key)
        self._spawner = Spawner()
        self._parts: dict[str, Part] = {}
        self._provoked: list[audit.Refusals] = []

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.keep_logs = True
            self.close()
            raise
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.keep_logs |= error is not None
        self.close()

    def start(self) -> None:
        """Start the four parts and wait until each is ready; raises PartError that names the one that is not."""
        self._run(programs.etcd(self.binaries, self.site))
        self._run(programs.api_server(self.binaries, self.site, self.options))
        manager, scheduler = (self.kubeconfig_of(f"system:{name}") for name in ("kube-controller-manager", "kube-scheduler"))
        self._run(
            programs.controller_manager(self.binaries, self.site, manager, self.options),
            programs.scheduler(self.binaries, self.site, scheduler),
        )

    def close(self) -> None:
        """Stop all parts, those first that need others, and remove the folder; a part that died, or `keep_logs`, keeps the logs."""
        self.keep_logs |= any(part.has_died for part in self._parts.values())
        api_server_and_etcd = {"kube-apiserver", "etcd"}
        clients = [part for name, part in self._parts.items() if name not in api_server_and_etcd]
        for part in clients:
            part.ask_to_stop()
        for part in [*clients, *(self._parts[name] for name in ("kube-apiserver", "etcd") if name in self._parts)]:
            part.stop(GIVEN_UP_SECONDS)
        self._spawner.close()
        self._keep_audit()
        if self.keep_logs:
            kept = Path(tempfile.gettempdir()) / f"{self.context}-logs"
            shutil.copytree(self.folder, kept, ignore=lambda _, names: [name for name in names if not name.endswith(".log")])
            sys.stderr.write(f"logs of the control plane: {kept}\n")
        shutil.rmtree(self.folder)

    def check(self) -> None:
        """Raise PartError, with the name and the end of the log, if a part ended that nobody stopped."""
        for part in self._parts.values():
            part.check()

    def part(self, name: str) -> Part:
        """Return a part that was started: etcd, kube-apiserver, …, kwok, karpenter."""
        return self._parts[name]

    def pids(self) -> dict[str, int]:
        """Return the process ids of the parts that run."""
        return {name: part.pid for name, part in self._parts.items() if part.pid is not None}

    def start_kwok(self) -> None:
        """Start KWOK, unless it runs."""
        self._run(kwok.program(self.binaries, self.site, self.kubeconfig))

    def start_karpenter(self, instance_types: Sequence[karpenter.GpuType] = karpenter.GPU_TYPES) -> None:
        """Start KWOK and Karpenter, unless they run, and create Karpenter's CRDs."""
        self.start_kwok()
        self.apply_crds(*self.binaries.assets("karpenter"))
        self._run(karpenter.program(self.binaries, self.site, self.kubeconfig, instance_types))

    def fail_launches(self, *faults: karpenter.NoCapacity, cache_seconds: float = 180.0) -> None:
        """Let Karpenter find no capacity there from now on, and only there; without any, all launches succeed again."""
        karpenter.write_faults(self.site, faults, cache_seconds)

    def stop_apiserver(self) -> None:
        """End the API server at once; etcd keeps all objects. Asked politely, it waits a minute for the watches of its clients."""
        self.part("kube-apiserver").kill()

    def start_apiserver(self) -> None:
        """Start the API server again, on the same port, and wait until it is ready."""
        part = self.part("kube-apiserver")
        part.start()
        part.await_ready(START_SECONDS)

    def kubectl(self, *arguments: str, document: str | None = None, timeout_seconds: float = KUBECTL_SECONDS) -> str:
        """Run kubectl as admin and return its stdout; `document` is its stdin. Raises KubectlError, or PartError if a part died."""
        argv = [str(self.binaries["kubectl"]), f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.folder / 'kubectl-cache'}"]
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        done = subprocess.run(
            [*argv, *arguments], input=document, capture_output=True, text=True, timeout=timeout_seconds, env=environment
        )
        if done.returncode:
            self.check()
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Create or change objects (server-side apply)."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", document="\n".join(map(json.dumps, documents)))

    def apply_crds(self, *files: Path) -> None:
        """Create CustomResourceDefinitions, one a file, and wait until the API server serves them."""
        names = [yaml.safe_load(file.read_text(encoding="utf-8"))["metadata"]["name"] for file in files]
        self.kubectl("apply", "--server-side", *(f"--filename={file}" for file in files))
        # Not --for=condition=…: that gives up on an object that has no conditions yet. So does a filter, while they are null.
        established = '--for=jsonpath={.status.conditions[?(@.type=="Established")].status}=True'
        self.kubectl("wait", "--for=jsonpath={.status.conditions[0].type}", "--timeout=30s", *(f"crd/{name}" for name in names))
        self.kubectl("wait", established, "--timeout=30s", *(f"crd/{name}" for name in names))

    def kubeconfig_of(self, user: str, groups: Sequence[str] = (), server: str | None = None) -> Path:
        """Write a kubeconfig with a client certificate. A proxy that reads what passes cannot pass that on: give it a token."""
        pair = self.authority.client(user, groups)
        return self._write_kubeconfig(user, certificate_user(pair), server)

    def kubeconfig_for(
        self, namespace: str, service_account: str, server: str | None = None, expiration_seconds: int = TOKEN_SECONDS
    ) -> Path:
        """Write a kubeconfig with a fresh token of a ServiceAccount; `server` is another address of the API server, a proxy's.

        A proxy with https has its certificate from `authority.server("proxy")`; one on loopback may speak http.
        """
        token = self.kubectl("create", "token", service_account, f"--namespace={namespace}", f"--duration={expiration_seconds}s")
        return self._write_kubeconfig(f"{namespace}-{service_account}", {"token": token.strip()}, server)

    def audit_events(self) -> list[dict[str, Any]]:
        """Return what the audit log has so far; needs `Options.audit_policy`."""
        return list(audit.read_log(self.site.audit_log))

    def expect_refusals(self, namespace: str, *calls: str) -> None:
        """Say that the account of an installation in a namespace is refused on purpose: calls such as `list secrets`; none: all."""
        self._provoked.append(audit.Refusals(namespace, frozenset(calls)))

    def _keep_audit(self) -> None:
        """Write down what the accounts of our chart asked, for the report of the whole session."""
        folder = os.environ.get(audit.AUDIT_VARIABLE)
        if folder and self.options.audit_policy is not None:
            audit.keep(audit.calls(audit.read_log(self.site.audit_log), self._provoked), Path(folder))

    def _write_kubeconfig(self, name: str, user: Mapping[str, str], server: str | None) -> Path:
        file = self.folder / f"{name.replace(':', '-')}-{secrets.token_hex(4)}.kubeconfig"
        return write_kubeconfig(file, self.context, server or self.server, self.authority.certificate, user)

    def _run(self, *wanted: Program) -> None:
        """Start programs side by side and wait for all."""
        started = []
        for program in wanted:
            part = self._parts.get(program.name)
            if part is None:
                part = self._parts[program.name] = Part(program, self.folder / f"{program.name}.log", self._spawner, self.tls)
            part.start()
            started.append(part)
        for part in started:
            part.await_ready(START_SECONDS)


def _audited(options: Options) -> Options:
    """Return options with an audit log where the session wants one."""
    if options.audit_policy is not None or not os.environ.get(audit.AUDIT_VARIABLE):
        return options
    return replace(options, audit_policy=audit.POLICY)
