"""What a real node is configured and cleaned with, as far as it can be told without one: no root, no containers."""

import json
from pathlib import Path

import pytest

from tests.rig import real_node, real_node_machine
from tests.rig.binaries import Binaries
from tests.rig.certificates import Authority, service_account_key
from tests.rig.node_images import Image, Keys
from tests.rig.programs import Options, Site, api_server
from tests.rig.real_node import RealNode
from tests.rig.real_node_machine import (
    CNI_PACKAGE,
    CNI_PLUGINS,
    HOST_ADDRESS,
    PACKAGES,
    Machine,
    MachineError,
    keep_settings,
    require_tools,
    restore_settings,
)
from tests.rig.real_node_programs import Place, containerd, coredns, kube_proxy
from tests.rig.recipes import NODE, RECIPES


class Inside(Machine):
    """A machine that was never started."""

    def inside(self, *argv: str) -> tuple[str, ...]:
        return ("enter", *argv)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    binaries = Binaries({recipe.name: tmp_path / recipe.name / recipe.name for recipe in NODE})
    return Place(binaries, Inside(tmp_path), tmp_path / "run", tmp_path / "kept")


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with all programs that a node needs, of no use."""
    folder = tmp_path / "tools"
    (folder / "cni").mkdir(parents=True)
    for name in PACKAGES:
        (folder / name).touch(0o755)
    for name in CNI_PLUGINS:
        (folder / "cni" / name).touch()
    return folder


def test_a_machine_that_has_everything_may_have_a_node(tools: Path):
    require_tools(True, str(tools), tools / "cni")


def test_who_is_not_root_is_told_so_before_anything_else(tools: Path):
    with pytest.raises(MachineError, match="as root"):
        require_tools(False, str(tools), tools / "cni")


def test_what_is_missing_is_named_with_the_line_that_installs_it(tools: Path):
    for name in ("runc", "nft"):
        (tools / name).unlink()
    (tools / "cni" / "ptp").unlink()
    with pytest.raises(MachineError, match=f"run `apt-get install -y {CNI_PACKAGE} nftables runc`$"):
        require_tools(True, str(tools), tools / "cni")


def test_the_kernel_s_settings_are_put_back_once(tmp_path: Path):
    root, file = tmp_path / "sys", tmp_path / "settings.json"
    (root / "vm").mkdir(parents=True)
    setting = root / "vm" / "overcommit_memory"
    setting.write_text("0\n")
    keep_settings(file, root)
    setting.write_text("1")
    restore_settings(file, root)
    assert setting.read_text() == "0"
    setting.write_text("2")
    restore_settings(file, root)
    assert setting.read_text() == "2", "what somebody sets between two runs is theirs"


def test_cgroups_of_a_killed_run_are_removed_from_every_hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(real_node_machine, "CGROUPS", tmp_path)
    (tmp_path / "cgroup.controllers").touch()
    group = tmp_path / real_node_machine.CGROUP
    (group / "kubepods" / "pod1").mkdir(parents=True)
    real_node_machine.remove_cgroups()
    assert not group.exists()
    real_node_machine.remove_cgroups()


def test_a_cgroup_that_still_has_a_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(real_node_machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(real_node_machine, "END_SECONDS", 0.0)
    (tmp_path / "cgroup.controllers").touch()
    group = tmp_path / real_node_machine.CGROUP
    group.mkdir()
    (group / "busy").touch()  # as a group with a process, it cannot be removed
    with pytest.raises(MachineError, match=f"{real_node_machine.CGROUP}: .*still there"):
        real_node_machine.remove_cgroups()


def test_a_second_run_is_told_that_the_first_has_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.rig.real_node.require_tools", lambda _: None)
    held = real_node.locked(tmp_path)
    node = RealNode(Binaries({}), tmp_path)
    with pytest.raises(MachineError, match="another run has the node"):
        node.start()
    held.close()


def test_images_stay_and_containers_do_not(place: Place):
    program = containerd(place)
    told = (place.run_folder / "containerd.toml").read_text()
    assert f'root = "{place.kept_folder}/containerd"' in told
    assert 'state = "/run/containerd"' in told, "which is memory of the machine"
    assert str(place.binaries["containerd-shim-runc-v2"].parent) in program.environment["PATH"].split(":")


def test_every_program_runs_in_the_machine_and_says_there_when_it_is_ready(place: Place, tmp_path: Path):
    programs = [containerd(place), kube_proxy(place, tmp_path), coredns(place, tmp_path, "context")]
    assert {program.argv[0] for program in programs} == {"enter"}
    assert len({program.ready_url for program in programs}) == len(programs)
    assert all(program.ready_url.startswith(f"http://{real_node_machine.NODE_ADDRESS}:") for program in programs)


def test_pods_are_routed_by_the_node_so_that_services_answer_them_too(place: Place):
    containerd(place)
    network = json.loads((place.run_folder / "cni" / "10-transcriber.conflist").read_text())
    assert [plugin["type"] for plugin in network["plugins"]] == ["ptp"]


def api_server_of(tmp_path: Path, options: Options) -> list[str]:
    authority = Authority(tmp_path)
    site = Site(
        tmp_path,
        authority,
        service_account_key(tmp_path / "key"),
        authority.server("serving"),
        {"etcd": 1, "kube-apiserver": 2},
    )
    return list(api_server(Binaries({"kube-apiserver": Path("kube-apiserver")}), site, options).argv)


def test_the_api_server_is_on_loopback_alone_unless_a_node_has_to_reach_it(tmp_path: Path):
    alone = api_server_of(tmp_path, Options())
    assert "--bind-address=127.0.0.1" in alone
    assert not [argument for argument in alone if argument.startswith("--kubelet")]
    reached = api_server_of(tmp_path, Options(advertise_address=HOST_ADDRESS))
    assert f"--advertise-address={HOST_ADDRESS}" in reached
    assert "--endpoint-reconciler-type=lease" in reached, "without it pods have no kubernetes.default"


def test_an_image_is_there_until_what_it_is_made_of_changes(tmp_path: Path):
    keys = Keys(tmp_path / "keys.json")
    assert Image("operator", "one") not in keys
    keys.add(Image("operator", "one"))
    keys.add(Image("serving", "one"))
    again = Keys(tmp_path / "keys.json")
    assert Image("operator", "one") in again
    assert Image("operator", "two") not in again


def test_a_node_s_binaries_are_no_part_of_the_control_plane():
    assert not {recipe.name for recipe in NODE} & {recipe.name for recipe in RECIPES}
