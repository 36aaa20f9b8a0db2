"""A machine within this one: namespaces of processes, mounts and network in which a real kubelet runs. Linux, as root.

All that runs in it ends with its first process, which the kernel kills with ours: however a run ends, no process, mount, bridge or
address outlives it. Cgroups without processes and settings of the kernel would: the end of a run takes them back, and where it was
killed the beginning of the next.
"""

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.rig.processes import Spawner

CGROUPS: Final = Path("/sys/fs/cgroup")
CGROUP: Final = "transcriber-node"
LINK: Final = "transcriber0"  # this machine's end of the cable between the two
HOST_ADDRESS: Final = "10.213.6.1"
NODE_ADDRESS: Final = "10.213.6.2"
LINK_BITS: Final = 30
POD_RANGE: Final = "10.213.7.0/24"
DNS_ADDRESS: Final = "169.254.20.10"
# The kubelet sets these for the whole kernel.
KERNEL_SETTINGS: Final = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
# The first process of a PID namespace inherits orphans; ignoring SIGCHLD it never has to wait for them.
FIRST_PROCESS: Final = 'trap "" CHLD; exec sleep infinity'
# Inside: what Kubernetes writes outside of its folders goes to memory, and so away with the namespace.
SET_UP: Final = f"""
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mount -t tmpfs tmpfs /var/lib/kubelet
ip link set lo up
ip address add {DNS_ADDRESS}/32 dev lo
ip address add {NODE_ADDRESS}/{LINK_BITS} dev eth0
ip link set eth0 up
ip route add default via {HOST_ADDRESS}
echo 1 > /proc/sys/net/ipv4/ip_forward
"""
# By program: the Debian package that has it.
PACKAGES: Final[Mapping[str, str]] = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ip": "iproute2",
    "runc": "runc",
    "nft": "nftables",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
}
CNI_FOLDER: Final = Path("/usr/lib/cni")
CNI_PLUGINS: Final = ("ptp", "host-local", "loopback")
CNI_PACKAGE: Final = "containernetworking-plugins"
SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_SECONDS: Final = 10.0
END_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.02  # neither a namespace's birth nor a cgroup's end is announced
COMMAND_SECONDS: Final = 120.0


class MachineError(Exception):
    """The machine cannot be had here, or a command in it failed; the message says what to do or what it said."""


def require_tools(is_root: bool, path: str = SEARCH_PATH, cni_folder: Path = CNI_FOLDER) -> None:
    """Raise MachineError, with the line that installs what is missing, unless all is here that a node and its images need."""
    if not is_root:
        raise MachineError("a kubelet runs as root: start this as root, for example in a throw-away virtual machine")
    missing = {package for program, package in PACKAGES.items() if shutil.which(program, path=path) is None}
    if not all((cni_folder / plugin).is_file() for plugin in CNI_PLUGINS):
        missing.add(CNI_PACKAGE)
    if missing:
        raise MachineError(f"{', '.join(sorted(missing))}: not installed; run `apt-get install -y {' '.join(sorted(missing))}`")


class Machine:
    """Namespaces with one process that waits; `start` it, let programs run in it by `inside`, and `close` it."""

    def __init__(self, folder: Path) -> None:
        """Prepare it; `folder` keeps what the kernel's settings were, until they are so again."""
        self._folder = folder
        self._spawner = Spawner()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, log_file: Path) -> None:
        """Take away what an earlier, killed run left, then make namespaces, cgroups and the cable; raises MachineError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._clear()
        keep_settings(self._folder / "kernel-settings.json")
        make_cgroups()
        Path("/var/lib/kubelet").mkdir(exist_ok=True)
        flags = ("--mount", "--net", "--pid", "--fork", "--kill-child")
        argv = [_tool("unshare"), *flags, "sh", "-c", FIRST_PROCESS]
        self._process = self._spawner.spawn(argv, {"PATH": SEARCH_PATH}, log_file)
        self._await_namespaces(log_file)
        pid = str(self._process.pid)
        _run(_tool("ip"), "link", "add", LINK, "type", "veth", "peer", "name", "eth0", "netns", pid)
        _run(_tool("ip"), "address", "add", f"{HOST_ADDRESS}/{LINK_BITS}", "dev", LINK)
        _run(_tool("ip"), "link", "set", LINK, "up")
        _run(_tool("ip"), "route", "add", POD_RANGE, "via", NODE_ADDRESS)
        self.run("sh", "-ec", SET_UP)

    def inside(self, *argv: str) -> tuple[str, ...]:
        """Return the command that runs another one in the machine, and ends it when it is ended itself."""
        assert self._process is not None, "start it first"
        namespaces = f"/proc/{self._process.pid}/ns"
        enter = (f"--net={namespaces}/net", f"--pid={namespaces}/pid_for_children", f"--mount={namespaces}/mnt")
        return (_tool("nsenter"), *enter, "--", "setpriv", "--pdeathsig", "TERM", "--", *argv)

    def run(self, *argv: str, timeout_seconds: float = COMMAND_SECONDS) -> str:
        """Run a command in the machine to its end and return its stdout; raises MachineError."""
        return _run(*self.inside(*argv), timeout_seconds=timeout_seconds)

    def seen(self, path: str) -> Path:
        """Return where this machine sees a file or folder of the other one."""
        assert self._process is not None, "start it first"
        return Path(f"/proc/{self._process.pid}/root{path}")

    def close(self) -> None:
        """End every process in it, and with them all namespaces; then take back what the kernel keeps."""
        if self._process is not None:
            first = _children(self._process.pid)
            watched = [os.pidfd_open(pid) for pid in first]
            self._process.kill()
            self._process.wait()
            for descriptor in watched:  # the first process ends last
                select.select([descriptor], [], [], END_SECONDS)
                os.close(descriptor)
            self._process = None
        self._spawner.close()
        self._clear()

    def _await_namespaces(self, log_file: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        ready = Path(f"/proc/{self._process.pid}/ns/pid_for_children")
        while not (_children(self._process.pid) and ready.exists()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise MachineError(f"unshare made no namespaces here: {log_file.read_text(encoding='utf-8').strip() or 'no word'}")
            time.sleep(POLL_SECONDS)

    def _clear(self) -> None:
        """Nothing runs in it, or nothing any more."""
        with suppress(MachineError):  # it goes with its namespace, but not at once
            _run(_tool("ip"), "link", "delete", LINK)
        remove_cgroups()
        restore_settings(self._folder / "kernel-settings.json")
        with suppress(OSError):  # it was there before, or another kubelet uses it
            Path("/var/lib/kubelet").rmdir()


def keep_settings(file: Path, root: Path = Path("/proc/sys")) -> None:
    """Write down what the kernel's settings are."""
    found = {name: (root / name).read_text().strip() for name in KERNEL_SETTINGS if (root / name).exists()}
    file.write_text(json.dumps(found), encoding="utf-8")


def restore_settings(file: Path, root: Path = Path("/proc/sys")) -> None:
    """Set the kernel to what was written down, if something was."""
    if file.exists():
        for name, value in json.loads(file.read_text(encoding="utf-8")).items():
            (root / name).write_text(value)
        file.unlink()


def make_cgroups() -> None:
    """Make the group that the kubelet puts all pods below, in every hierarchy."""
    for hierarchy in _hierarchies():
        group = hierarchy / CGROUP
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):  # of cgroup v1: empty in a new group, which then takes no process
            if (group / name).exists() and not (group / name).read_text().strip():
                (group / name).write_text((hierarchy / name).read_text())


def remove_cgroups() -> None:
    """Remove the group and all below it once the last process in it has ended; raises MachineError if that does not happen."""
    deadline = time.monotonic() + END_SECONDS
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / CGROUP, topdown=False):
            while True:
                try:
                    Path(folder).rmdir()
                except FileNotFoundError:
                    break
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise MachineError(f"{folder}: {error.strerror}; processes of an earlier run are still there") from error
                    time.sleep(POLL_SECONDS)
                else:
                    break


def _hierarchies() -> Iterator[Path]:
    """Yield the roots of cgroups: one of version 2, or one per controller of version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        yield CGROUPS
        return
    yield from (path for path in sorted(CGROUPS.iterdir()) if not path.is_symlink() and path.is_mount())


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _tool(name: str) -> str:
    found = shutil.which(name, path=SEARCH_PATH)
    if found is None:
        raise MachineError(f"{name}: not found; run `apt-get install -y {PACKAGES.get(name, name)}`")
    return found


def _run(*argv: str, timeout_seconds: float = COMMAND_SECONDS) -> str:
    environment = {**os.environ, "PATH": SEARCH_PATH}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_seconds, env=environment)
    if done.returncode:
        raise MachineError(f"{' '.join(argv)}: exit code {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
