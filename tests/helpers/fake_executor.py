"""An executor made by hand: what a runner binds, records, resumes and refuses, without a process."""

from pydantic import BaseModel, ConfigDict

from slr_bench.execute.local import Ending
from slr_bench.grid.cells import cell_id
from slr_bench.grid.workload import WorkloadSpec
from slr_bench.run.interference import Readers


class Toy(BaseModel):
    model_config = ConfigDict(frozen=True)

    size: int = 1


TOY = WorkloadSpec(name="toy", settings=Toy, build=print)
BYTES = {"value": 64, "unit": "bytes", "source": "cpu-real", "quality": "exact", "reason": None}
MEASURED = {
    "outcome": "ok",
    "reason": None,
    "environment": {"torch": "2.15"},
    "metrics": {"peak_tensor_bytes": BYTES},
    "phases": {},
    "samples": {"rows": []},
    "work_s": 0.0,
}


STILL = Readers(
    wall_s=lambda: 0.0,
    monotonic_s=lambda: 0.0,
    busy_s=lambda: None,
    own_s=lambda pid: None,
    swapped_bytes=lambda: 0,
    tree_swap_bytes=lambda pid: 0,
)
"""A machine on which nothing happens beside the run."""


def id_of(size: int, spec: WorkloadSpec = TOY) -> str:
    return cell_id(spec, Toy(size=size))


class FakeExecutor:
    """Answers each job at once. ``endings`` maps a setting's size to how its process ends."""

    def __init__(self, endings=None, environment=None):
        self.endings = endings or {}
        self.environment = {"torch": "2.15"} if environment is None else environment
        self.measured = []

    def __call__(self, preload, environment):
        self.preload = preload
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, job, timeout_s, on_message, on_tick, tick_s):
        if job["op"] == "environment":
            return Ending(self.environment, None, 0, False, 0.1)
        self.measured.append(job["setting"]["size"])
        on_message({"phase": "build", "pid": 1})
        on_tick(1)
        return self.endings.get(job["setting"]["size"], Ending(MEASURED, None, 0, False, 0.1))


class Silent:
    def planned(self, runs, finished, note):
        self.waiting, self.note = len(runs) - finished, note

    def started(self, run):
        pass

    def progressed(self, run, phase):
        pass

    def finished(self, run, record):
        pass
