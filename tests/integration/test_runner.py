"""Real cells that fail in every way: typed, undisturbed, none left behind, none lost."""

import getpass
import re
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from slr_bench.grid.cells import expand
from slr_bench.grid.config import GridConfig
from slr_bench.run.runner import Runner
from slr_bench.run.store import Store

PATIENCE_S = 60
SIZES = [1, 1000, 4096]
ENDS = {
    "ok": ("ok", None),
    "orphan": ("ok", None),
    "fork": ("ok", None),
    "sigkill": ("crash", "ended by SIGKILL; see its log in logs/"),
    "sigsegv": ("crash", "ended by SIGSEGV; see its log in logs/"),
    "signal40": ("crash", "ended by "),
    "exit": ("crash", "the process ended with status 3 and no result; see its log in logs/"),
    "sys_exit": ("crash", "the process ended with status 1 and no result; see its log in logs/"),
    "raise": ("crash", "ValueError: broken on purpose"),
    "nan": ("crash", "nan is no figure"),
    "import": ("crash", "ModuleNotFoundError: No module named 'no_such_module'"),
    "ram": ("oom_host", "can't allocate memory"),
    "ram_python": ("oom_host", "MemoryError"),
    "oom_gpu": ("oom_gpu", "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 2 MiB free."),
    "oom_driver": ("oom_gpu", "CUDA error: out of memory"),
    "oom_cublas": ("oom_gpu", "CUBLAS_STATUS_ALLOC_FAILED"),
    "nan_loss": ("crash", "the loss of step 1 is nan; lower the learning rate"),
    "daemon": ("ok", None),
    "unsupported": ("unsupported", "this machine cannot do it"),
}


class Events:
    """Keeps the events of the runner."""

    def __init__(self):
        self.seen = []

    def scheduled(self, runs, finished, note):
        self.seen.append(("scheduled", len(runs), finished))

    def started(self, run):
        self.seen.append(("started", run.name))

    def progressed(self, run, phase):
        self.seen.append(("progressed", run.name, phase))

    def finished(self, run, record):
        self.seen.append(("finished", run.name))


def run_grid(grid: GridConfig, directory: Path, marked, survivors) -> SimpleNamespace:
    """Run a grid; ``left`` are processes of it that live on afterwards."""
    events, mark = Events(), f"MARK_OF_A_TEST={directory}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*mark.split("=", 1))
        totals = Runner(grid, expand(grid, {}), Store(directory), fake=False, command="slr-bench run x").run(events)
    return SimpleNamespace(totals=totals, events=events.seen, directory=directory, left=survivors(marked(mark)))


@pytest.fixture(scope="module")
def faults(tmp_path_factory, marked, survivors):
    """Every fault in a process of its own, a hang under a deadline of its own, and known sizes twice."""
    grid = GridConfig(
        workload="faulty",
        axes={"fault.mode": list(ENDS)},
        repeats=1,
        ram_limit="16GiB",
        also=(
            {"workload": "faulty", "axes": {"fault.mode": ["hang"]}, "repeats": 1, "timeout_s": 0.5},
            {"workload": "faulty", "axes": {"fault.size": SIZES}, "repeats": 2},
        ),
    )
    return run_grid(grid, tmp_path_factory.mktemp("faults"), marked, survivors)


def record_of(faults, mode: str):
    (found,) = [
        record
        for record in faults.totals.records
        if (record.setting["fault"]["mode"], record.setting["fault"]["size"]) == (mode, 1024)
    ]
    return found


@pytest.mark.parametrize("mode", list(ENDS))
def test_every_ending_has_its_outcome_and_reason(faults, mode):
    outcome, reason = ENDS[mode]
    record = record_of(faults, mode)
    assert record.outcome == outcome
    assert record.reason is None if reason is None else reason in record.reason
    assert "\n" not in (record.reason or "")
    if outcome != "ok":
        assert record.metrics == {}


def test_a_hang_ends_at_its_deadline(faults):
    record = record_of(faults, "hang")
    assert record.outcome == "timeout"
    assert "0.5 s" in record.reason


def test_no_process_is_left_behind(faults):
    assert faults.left == []


def test_no_record_is_lost_and_none_is_half_written(faults):
    records, problems = Store(faults.directory).read_records()
    assert problems == []
    assert {record.name for record in records} == {record.name for record in faults.totals.records}
    assert len(records) == faults.totals.ran == len(ENDS) + 1 + 2 * len(SIZES)


def test_every_run_is_reported_in_order(faults):
    first, *others = faults.events
    assert first == ("scheduled", faults.totals.ran, 0)
    names = [event[1] for event in others if event[0] == "started"]
    assert names == [event[1] for event in others if event[0] == "finished"]
    well = record_of(faults, "ok").name
    told = [event[2] for event in others if event[:2] == ("progressed", well)]
    assert told == ["build", "load", "warm-up", "step 1/3", "step 2/3", "step 3/3", "trace"]


def test_a_tensor_of_known_size_is_counted_to_the_byte_in_every_repeat(faults):
    found = [
        (record.setting["fault"]["size"], record.value("peak_tensor_bytes"))
        for record in faults.totals.records
        if record.setting["fault"]["mode"] == "ok" and record.setting["fault"]["size"] in SIZES
    ]
    assert sorted(found) == sorted([(size, 4 * size) for size in SIZES] * 2)


def test_a_finished_cell_has_every_reading_or_says_why_not(faults):
    record = record_of(faults, "ok")
    for name in ("peak_rss_bytes", "rss_over_start_bytes", "step_time_s", "throughput_clips_per_s", "harness_s"):
        assert record.value(name) is not None
    for name in ("energy_j", "nvml_process_peak_bytes", "nvml_device_peak_bytes", "peak_allocated_bytes"):
        if record.environment["device"] == "cpu":
            assert record.value(name) is None
            assert "CPU" in record.metrics[name].reason
    assert record.environment["isolation"] == "fork"
    assert record.phases.keys() >= {"build", "load", "warm-up"}


def test_no_file_of_a_run_names_a_place_or_a_machine(faults):
    for path in [*(faults.directory / "records").iterdir(), *(faults.directory / "samples").iterdir()]:
        text = path.read_text()
        for private in (str(faults.directory), str(Path.cwd()), f"{Path.home()}/", f"{tempfile.gettempdir()}/"):
            assert private not in text
        for private in (socket.gethostname(), getpass.getuser()):
            assert not re.search(rf"\b{re.escape(private)}\b", text)


def test_the_traceback_of_a_cell_is_in_its_log(faults):
    log = faults.directory / "logs" / f"{record_of(faults, 'raise').name}.log"
    assert "Traceback" in log.read_text()


def test_a_spawned_cell_measures_the_same_bytes_in_a_fresh_interpreter(faults, tmp_path, marked, survivors):
    grid = GridConfig(workload="faulty", repeats=1, isolation="spawn")
    done = run_grid(grid, tmp_path, marked, survivors)
    (record,) = done.totals.records
    assert record.environment["isolation"] == "spawn"
    assert record.value("peak_tensor_bytes") == record_of(faults, "ok").value("peak_tensor_bytes")
    assert done.left == []


def test_a_cell_that_fills_its_limit_to_the_brim_is_out_of_ram(tmp_path, marked, survivors):
    """The outcome is reported although the limit leaves no memory for it. 3 GiB: what torch maps is in it too."""
    grid = GridConfig(
        workload="faulty", set={"fault.mode": "brim"}, repeats=1, ram_limit="3GiB", isolation="spawn", sample_hz=1
    )
    (record,) = run_grid(grid, tmp_path, marked, survivors).totals.records
    assert record.outcome == "oom_host"


def test_a_preload_that_is_not_installed_fails_its_own_cells_alone(tmp_path, marked, survivors):
    grid = GridConfig(workload="unloadable", repeats=1, also=({"workload": "faulty", "repeats": 1},))
    records = run_grid(grid, tmp_path, marked, survivors).totals.records
    ends = {record.workload: (record.outcome, record.reason) for record in records}
    assert ends["faulty"] == ("ok", None)
    assert ends["unloadable"] == ("crash", "ModuleNotFoundError: No module named 'no_such_module'")
