"""A real node beside the rig's control plane: kubelet, containerd, kube-proxy and CoreDNS on this machine. Linux, as root.

    binaries = find_binaries(os.environ, (*RECIPES, *NODE))
    with RealNode(binaries, cache_dir(os.environ) / "node") as node:
        node.import_image(archive)
        with node.control_plane() as plane:
            plane.kubectl("get", "nodes")

It is another machine as far as its processes, mounts and network go (real_node_machine.py); images stay in `folder` from run to
run, everything else is gone afterwards. Pods have addresses of their own, reach each other, Services by address and name, and the
API server; there is no network beyond this machine, and nothing that enforces NetworkPolicies.
"""

import fcntl
import os
import shutil
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Self

from tests.rig.binaries import Binaries
from tests.rig.control_plane import ControlPlane
from tests.rig.processes import Part, Program, Spawner
from tests.rig.programs import Options
from tests.rig.real_node_machine import HOST_ADDRESS, NODE_ADDRESS, Machine, MachineError, require_tools
from tests.rig.real_node_programs import NODE, Place, containerd, coredns, ctr, kube_proxy, kubelet

PROXY_USER: Final = "system:kube-proxy"  # of this name and the next two the API server knows the rights by itself
NODE_USER: Final = f"system:node:{NODE}"
NODES_GROUP: Final = "system:nodes"
ADMIN_GROUP: Final = "system:masters"
START_SECONDS: Final = 60.0
IMPORT_SECONDS: Final = 1800.0


class RealNode:
    """containerd in a machine of its own, and the rest of a node with `control_plane`; one at a time on one machine."""

    def __init__(self, binaries: Binaries, folder: Path) -> None:
        """Prepare it; `folder` keeps images between runs. Raises MachineError that says what this machine lacks."""
        require_tools(os.geteuid() == 0)
        self.binaries = binaries
        self.folder = folder
        self.machine = Machine(folder)
        self._place: Place | None = None
        self._spawner = Spawner()
        self._parts: list[Part] = []
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start containerd without any container; raises MachineError, or PartError that names what did not start."""
        self._lock = locked(self.folder)
        run_folder = self.folder / "run"
        shutil.rmtree(run_folder, ignore_errors=True)
        run_folder.mkdir()
        self.machine.start(run_folder / "machine.log")
        self._place = Place(self.binaries, self.machine, run_folder, self.folder)
        self._run(containerd(self.place))
        self._forget_containers()

    @property
    def place(self) -> Place:
        """Where its programs run."""
        assert self._place is not None, "start it first"
        return self._place

    @contextmanager
    def control_plane(self) -> Iterator[ControlPlane]:
        """Run a control plane of which this is the node; ready for pods when it is entered."""
        with ControlPlane(self.binaries, Options(advertise_address=HOST_ADDRESS)) as plane:
            try:
                self._join(plane)
                yield plane
            except BaseException:
                plane.keep_logs = True
                raise
            finally:
                if plane.keep_logs:
                    self._copy_logs(plane.folder)

    def close(self) -> None:
        """End all of it; images stay."""
        self.machine.close()
        for part in self._parts:
            part.kill()
        self._spawner.close()
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def ctr(self, *arguments: str, timeout_seconds: float = IMPORT_SECONDS) -> str:
        """Run containerd's client and return its stdout; raises MachineError."""
        return self.machine.run(*ctr(self.place, *arguments), timeout_seconds=timeout_seconds)

    def _join(self, plane: ControlPlane) -> None:
        server = f"https://{HOST_ADDRESS}:{plane.site.ports['kube-apiserver']}"
        serving = plane.authority.server("kubelet", (NODE,), (NODE_ADDRESS,))
        resolver = plane.kubeconfig_of("system:coredns", [ADMIN_GROUP], server)
        self._run(
            kubelet(self.place, plane.kubeconfig_of(NODE_USER, [NODES_GROUP], server), plane.authority.certificate, serving),
            kube_proxy(self.place, plane.kubeconfig_of(PROXY_USER, (), server)),
            coredns(self.place, resolver, plane.context),
        )
        plane.kubectl("wait", "--for=create", f"node/{NODE}", "--timeout=60s")
        plane.kubectl("wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=60s")

    def _forget_containers(self) -> None:
        """Remove what containerd still knows of the containers of an earlier run, whose processes ended with their machine."""
        containers = self.ctr("containers", "list", "--quiet").split()
        sandboxes = [line.split()[0] for line in self.ctr("sandboxes", "list").splitlines()[1:]]
        for kind, names in (("containers", containers), ("sandboxes", sandboxes)):
            if names:
                self.ctr(kind, "remove", *names)
        if containers or sandboxes:
            [part] = self._parts
            part.stop()
            self._run(part.program)

    def _run(self, *wanted: Program) -> None:
        """Start programs side by side and wait for all."""
        started = []
        for program in wanted:
            part = Part(program, self.place.run_folder / f"{program.name}.log", self._spawner, ssl.create_default_context())
            part.start()
            started.append(part)
        self._parts += started
        for part in started:
            part.await_ready(START_SECONDS)

    def _copy_logs(self, folder: Path) -> None:
        """Put the logs of the node's programs and of its pods beside those of the control plane."""
        for part in self._parts:
            shutil.copy(part.log_file, folder)
        for file in self.machine.seen("/var/log/pods").glob("*/*/*.log"):
            pod, container = file.parts[-3:-1]
            shutil.copy(file, folder / f"{pod}-{container}-{file.name}")


def locked(folder: Path) -> IO[str]:
    """Hold the one node of this machine until the file is closed, or this process ends; raises MachineError."""
    folder.mkdir(parents=True, exist_ok=True)
    held = (folder / ".lock").open("w")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise MachineError(f"{folder}: another run has the node; wait until it ends") from None
    return held
