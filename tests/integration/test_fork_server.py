"""The fork server does nothing but import, and outlives neither its cells' remains nor its runner."""

import json
import os
import signal
from pathlib import Path

import pytest

from benchmarks.workloads import train_step
from slr_bench.execute import local
from slr_bench.execute.job import DescribeEnvironment, Job, MeasureCell, PhaseEntered, Work
from slr_bench.execute.local import LocalExecutor, ServerDiedError, thread_environment

PRELOAD = ["slr_bench.worker.measure", *train_step.preload]


def environment_job(tmp_path) -> Job:
    return Job(DescribeEnvironment(), "cpu", str(tmp_path / "log"), timeout_s=60)


def faulty(tmp_path, mode: str, timeout_s: float = 60) -> Job:
    work = Work("faulty", {"fault": {"mode": mode, "size": 1}})
    return Job(MeasureCell(work, 1, 1, sample_hz=20), "cpu", str(tmp_path / "log"), timeout_s)


def test_the_server_has_run_no_operator_no_thread_and_no_driver_call(tmp_path, monkeypatch):
    """Watched from its first import of torch on, with all that the project's own workloads preload."""
    seen = tmp_path / "seen"
    monkeypatch.setenv("SERVER_WATCH", str(seen))
    with LocalExecutor(["server_watch", *PRELOAD], thread_environment()) as executor:
        server = Path("/proc", str(executor._server.pid))
        threads = len(list((server / "task").iterdir()))
        mapped = (server / "maps").read_text()
        opened = [os.readlink(path) for path in (server / "fd").iterdir() if path.exists()]
        assert executor.submit(environment_job(tmp_path)).wait().result is not None
    told = json.loads(seen.read_text())
    # torchvision asks its library for the CUDA version it was built with: a constant, no tensor and no driver.
    assert set(told["operators"]) <= {"torchvision._cuda_version.default"}
    assert told["threads"] == 1
    assert threads == 1
    assert "libtorch_cpu" in mapped
    assert not [name for name in ("libcuda.so", "libnvidia-ml.so") if name in mapped]
    assert not [path for path in opened if "nvidia" in path]


def marked_children(marked, owner: str) -> list[int]:
    return marked(f"{local.OWNER_VARIABLE}={owner}")


@pytest.mark.parametrize("mode", ["orphan", "daemon", "fork"])
def test_what_a_cell_leaves_behind_ends_with_it_whatever_session_it_went_to(tmp_path, marked, survivors, mode):
    with LocalExecutor(["slr_bench.worker.measure"], {}) as executor:
        assert executor.submit(faulty(tmp_path, mode)).wait().outcome == "ok"
        left = [pid for pid in marked_children(marked, executor._owner) if pid != executor._server.pid]
        assert left == []
    assert survivors(marked_children(marked, executor._owner)) == []


def test_a_killed_server_leaves_nothing_of_its_cell_and_no_stranger_is_touched(tmp_path, marked, monkeypatch):
    """The cell dies with the server; what the cell had started comes to the runner, which ends it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    monkeypatch.setenv("FAULTY_WORKLOAD_FIFO", str(fifo))
    reader = os.open(fifo, os.O_RDWR)
    stranger = os.posix_spawnp("sleep", ["sleep", "600"], os.environ)
    pids: list[int] = []

    def kill_the_server(message: PhaseEntered) -> None:
        if message.phase == "warm-up":  # its first step tells its processes, and waits
            pids.extend(map(int, os.read(reader, 100).split()))
            os.kill(pids[0], signal.SIGKILL)

    executor = LocalExecutor(["slr_bench.worker.measure"], {})
    with pytest.raises(ServerDiedError), executor:
        executor.submit(faulty(tmp_path, "held")).wait(kill_the_server)
    os.close(reader)
    assert len(pids) == 3
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert marked_children(marked, executor._owner) == []
    assert os.waitpid(stranger, os.WNOHANG) == (0, 0)
    os.kill(stranger, signal.SIGKILL)
    os.waitpid(stranger, 0)


def test_a_server_that_hangs_is_killed_at_last_with_its_cell(tmp_path, marked, monkeypatch):
    monkeypatch.setattr(local, "GRACE_S", 0.2)
    executor = LocalExecutor(["slr_bench.worker.measure"], {})

    def stop_the_server(message: PhaseEntered) -> None:
        os.kill(executor._server.pid, signal.SIGSTOP)

    with pytest.raises(ServerDiedError), executor:
        executor.submit(faulty(tmp_path, "hang", 0.5)).wait(stop_the_server)
    assert marked_children(marked, executor._owner) == []


def test_job_is_the_first_process_that_the_kernel_kills(tmp_path):
    scores: list[str] = []

    def read(message: PhaseEntered) -> None:
        scores.append(Path(f"/proc/{executor.last_pid}/oom_score_adj").read_text().strip())

    with LocalExecutor(["slr_bench.worker.measure"], {}) as executor:
        executor.submit(faulty(tmp_path, "ok")).wait(read)
    assert set(scores) == {"900"}


def test_a_server_that_still_imports_is_ended_at_once():
    executor = LocalExecutor(["torch"], {})
    executor.start()
    executor.__exit__(None, None, None)
    assert executor._server.returncode == -signal.SIGKILL


def test_a_cancelled_job_is_killed_and_did_not_time_out(tmp_path):
    with LocalExecutor(["slr_bench.worker.measure"], {}) as executor:
        phases: list[str] = []
        handle = executor.submit(faulty(tmp_path, "hang"))
        ending = handle.wait(lambda message: phases.append(message.phase), lambda: "warm-up" in phases)
        assert (ending.signal, ending.timed_out, ending.result) == (signal.SIGKILL, False, None)
        assert executor.submit(faulty(tmp_path, "ok")).wait().outcome == "ok"
