"""The pure parts of the pod bridge, and its processes without an API server."""

import asyncio
import datetime
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.rig.bridge_environment import ConfigError, Mount, expand, field, rewrite
from tests.rig.bridge_manifests import LEAVE_A_CHILD
from tests.rig.bridge_observing import lines
from tests.rig.bridge_probes import Tally, Timing
from tests.rig.bridge_process import Command, Runtime, StartError
from tests.rig.bridge_settings import Settings
from tests.rig.bridge_status import (
    ContainerState,
    PodState,
    Running,
    Terminated,
    Waiting,
    pod_phase,
    pod_status,
    restarts,
    termination_message,
)
from tests.rig.bridge_waiting import Deadline, first
from tests.rig.pod_bridge import main

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
POD = {"metadata": {"name": "web", "uid": "u", "labels": {"app": "a"}}, "spec": {}, "status": {"podIPs": [{"ip": "127.1.2.3"}]}}
RUNNING = Running(NOW)


def ended(exit_code: int) -> Terminated:
    return Terminated(exit_code, "Error", "", NOW, NOW, "")


def state(name: str, at: Waiting | Running | Terminated, *, ready: bool = False, sidecar: bool = False) -> ContainerState:
    return ContainerState(name, "none", is_sidecar=sidecar, state=at, is_ready=ready, has_started=isinstance(at, Running))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)-$(B)", "1-2"),
        ("$$(A)", "$(A)"),
        ("$(C) $A ${A} $", "$(C) $A ${A} $"),
        ("$$$(A)", "$1"),
        ("$(A", "$(A"),
    ],
)
def test_references_to_variables_are_expanded_as_kubernetes_does(text: str, expected: str):
    assert expand(text, {"A": "1", "B": "2"}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/tmp", "/tmp/f/t"),
        ("/tmp/", "/tmp/f/t/"),
        ("--x=/tmp/a:/tmp/b", "--x=/tmp/f/t/a:/tmp/f/t/b"),
        ("target=/tmp/inner/y", "target=/tmp/f/i/y"),
        ("open('/tmp')", "open('/tmp/f/t')"),
        ("/tmpfile /tmp.x /tmp-x a/tmp ./tmp //tmp http://h/tmp", "/tmpfile /tmp.x /tmp-x a/tmp ./tmp //tmp http://h/tmp"),
    ],
)
def test_paths_below_a_mount_are_rewritten_once_and_the_inner_mount_counts(text: str, expected: str):
    mounts = [Mount("/tmp", Path("/tmp/f/t")), Mount("/tmp/inner/", Path("/tmp/f/i"))]
    assert rewrite(text, mounts) == expected
    assert rewrite(text, []) == text


def test_fields_of_the_pod_are_text_and_an_unknown_one_is_named():
    assert field(POD, "metadata.name") == "web"
    assert field(POD, "metadata.labels['app']") == "a"
    assert field(POD, "metadata.labels['none']") == ""
    assert field(POD, "status.podIPs") == "127.1.2.3"
    with pytest.raises(ConfigError, match=r"^fieldPath spec\.containers: the bridge knows "):
        field(POD, "spec.containers")


def test_only_so_many_equal_results_in_a_row_are_a_verdict():
    timing = Timing(success_threshold=2, failure_threshold=3)
    tally, seen = Tally(), []
    for has_passed in (True, True, True, False, False, True, False, False, False, False, True):
        tally = tally.add(has_passed=has_passed)
        seen.append(tally.verdict(timing))
    assert seen == [None, True, True, None, None, None, None, None, False, False, None]


def test_back_off_is_nothing_then_doubles_up_to_its_limit():
    settings = Settings(backoff_initial_seconds=1, backoff_max_seconds=5)
    assert [settings.backoff_seconds(ends) for ends in range(6)] == [0, 0, 1, 2, 4, 5]


@pytest.mark.parametrize(
    ("policy", "expected"), [("Always", (True, True)), ("OnFailure", (False, True)), ("Never", (False, False))]
)
def test_a_restart_policy_says_after_which_exit_code_a_container_runs_again(policy: str, expected: tuple[bool, bool]):
    assert (restarts(policy, 0), restarts(policy, 1)) == expected


def test_a_termination_message_is_the_end_of_what_was_said():
    assert termination_message("File", 1, b"", b"log") == ""
    assert termination_message("FallbackToLogsOnError", 0, b"", b"log") == ""
    assert termination_message("FallbackToLogsOnError", 1, b"said", b"log") == "said"
    assert termination_message("FallbackToLogsOnError", 1, b"", b"line\n" * 100) == "line\n" * 80
    assert termination_message("FallbackToLogsOnError", 1, b"", b"x" * 3000) == "x" * 2048
    assert termination_message("File", 0, b"x" * 5000, b"") == "x" * 4096


@pytest.mark.parametrize(
    ("init", "main_state", "is_over", "expected"),
    [
        ((), Waiting("ContainerCreating"), False, "Pending"),
        ((state("i", RUNNING),), Waiting("PodInitializing"), False, "Pending"),
        ((state("i", ended(0)),), RUNNING, False, "Running"),
        ((state("s", RUNNING, sidecar=True),), ended(0), False, "Running"),
        ((state("s", ended(1), sidecar=True),), ended(0), True, "Succeeded"),
        ((), ended(1), True, "Failed"),
        ((state("i", ended(1)),), Waiting("PodInitializing"), True, "Failed"),
    ],
)
def test_a_pod_s_phase_follows_its_containers(
    init: tuple[ContainerState, ...], main_state: Waiting | Running | Terminated, is_over: bool, expected: str
):
    assert pod_phase(PodState("127.1.2.3", NOW, init, (state("m", main_state),), is_over)) == expected


def test_a_container_that_waits_after_a_crash_leaves_the_pod_running():
    crashed = replace(state("m", Waiting("CrashLoopBackOff")), last=ended(1))
    assert pod_phase(PodState("127.1.2.3", NOW, (), (crashed,))) == "Running"


def test_a_condition_keeps_its_time_until_its_status_changes_and_gates_of_others_count():
    pod = {"metadata": {"generation": 4}, "spec": {"readinessGates": [{"conditionType": "open"}]}, "status": {"conditions": []}}
    pod_state = PodState("127.1.2.3", NOW, (), (state("m", RUNNING, ready=True),))
    before = pod_status(pod, pod_state, {}, NOW)
    by_type = {condition["type"]: condition for condition in before["conditions"]}
    assert by_type["ContainersReady"]["status"] == "True"
    assert (by_type["Ready"]["status"], by_type["Ready"]["reason"]) == ("False", "ReadinessGatesNotReady")
    opened = {**pod, "status": {"conditions": [{"type": "open", "status": "True"}]}}
    after = pod_status(opened, pod_state, by_type, NOW + datetime.timedelta(seconds=9))
    times = {condition["type"]: condition["lastTransitionTime"] for condition in after["conditions"]}
    assert (times["ContainersReady"], times["Ready"]) == ("2026-01-02T03:04:05Z", "2026-01-02T03:04:14Z")
    assert before["observedGeneration"] == 4


async def test_a_deadline_can_only_come_sooner():
    deadline = Deadline(600)
    waiter = asyncio.create_task(deadline.reached())
    await asyncio.sleep(0)
    deadline.shorten(900)
    assert 500 < deadline.seconds_left <= 600
    deadline.shorten(0)
    await asyncio.wait_for(waiter, 5)


async def test_the_first_of_several_is_awaited_the_others_are_cancelled_and_an_error_is_raised():
    cancelled = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await first(endless(), fails())
    assert cancelled.is_set()


def command(code: str, folder: Path) -> Command:
    return Command((sys.executable, "-c", code), {}, folder)


async def test_a_process_has_its_own_environment_folder_and_log_and_its_exit_code_is_known(tmp_path: Path):
    runtime = Runtime()
    process = await runtime.start(
        command("import os; print(os.getcwd(), dict(os.environ)); raise SystemExit(3)", tmp_path), tmp_path / "log"
    )
    assert await process.wait() == 3
    assert str(tmp_path) in (tmp_path / "log").read_text()
    assert "PYTEST_CURRENT_TEST" not in (tmp_path / "log").read_text()
    process.signal(signal.SIGTERM)  # has ended: nothing happens
    assert process.processes() == []
    await runtime.close()


async def test_no_end_is_missed_however_early_it_comes(tmp_path: Path):
    runtime = Runtime()

    async def exit_code() -> int:
        process = await runtime.start(Command(("/bin/sh", "-c", "exit 5"), {}, tmp_path), tmp_path / "log")
        return await process.wait()

    for _ in range(10):
        assert await asyncio.wait_for(asyncio.gather(*(exit_code() for _ in range(8))), 30) == [5] * 8
    await runtime.close()


async def test_a_program_that_is_not_there_is_named(tmp_path: Path):
    runtime = Runtime()
    with pytest.raises(StartError, match=r"^/no/such: No such file or directory$"):
        await runtime.start(Command(("/no/such",), {}, tmp_path), tmp_path / "log")
    with pytest.raises(StartError, match=r"^/no/folder: No such file or directory$"):
        await runtime.start(command("", Path("/no/folder")), tmp_path / "log")
    await runtime.close()


async def test_a_process_that_is_frozen_and_a_child_that_is_deaf_end_with_the_runtime(tmp_path: Path):
    runtime = Runtime()
    processes = [await runtime.start(command(LEAVE_A_CHILD, tmp_path), tmp_path / "log") for _ in range(2)]
    await lines(tmp_path / "log", 2)
    processes[0].signal_all(signal.SIGSTOP)
    pids = [running.pid for process in processes for running in process.processes()]
    assert len(pids) == 4
    await runtime.close()
    assert [await process.wait() for process in processes] == [137, 137]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_start_that_is_cancelled_leaves_no_process(tmp_path: Path):
    runtime = Runtime()
    for turns in range(12):
        starting = asyncio.create_task(runtime.start(command("import signal; signal.pause()", tmp_path), tmp_path / "log"))
        for _ in range(turns):
            await asyncio.sleep(0.005)
        starting.cancel()
        await asyncio.wait([starting])
        if not starting.cancelled():
            starting.result().kill()
    await runtime.close()
    assert runtime.is_idle


def test_a_cluster_that_is_no_test_cluster_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text("current-context: production\n")
    with pytest.raises(SystemExit) as exit_info:
        main([f"--kubeconfig={kubeconfig}", f"--dir={tmp_path}"])
    assert exit_info.value.code == 2
    assert "context 'production' is none of a test cluster" in capsys.readouterr().err
