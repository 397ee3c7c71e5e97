"""An executor made by hand: what a runner binds, records, resumes and refuses, without a process."""

from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from slr_bench.execute.job import DescribeEnvironment, Ending, Job, JobResult, Measurement, PhaseEntered
from slr_bench.execute.machine import JobMonitor, Readers
from slr_bench.grid.cells import cell_id
from slr_bench.grid.workload import WorkloadSpec
from slr_bench.record import Metric, Outcome


class Toy(BaseModel):
    model_config = ConfigDict(frozen=True)

    size: int = 1


TOY = WorkloadSpec(name="toy", settings=Toy, build=print)
BYTES = Metric(value=64, unit="bytes", source="cpu-real", quality="exact")
MEASURED = JobResult(
    Outcome.OK, None, {"torch": "2.15"}, measurement=Measurement({"peak_tensor_bytes": BYTES}, samples={"rows": []})
)


STILL = Readers(
    wall_s=lambda: 0.0,
    monotonic_s=lambda: 0.0,
    busy_s=lambda: None,
    own_s=lambda pid: None,
    swapped_bytes=lambda: 0,
    tree_swap_bytes=lambda pid: 0,
    oom_kills=lambda: None,
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

    def __call__(self, preload, environment, readers=None):
        self.preload, self.readers = preload, readers or Readers()
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, job):
        return FakeHandle(self, job)

    def ending(self, job):
        if isinstance(job.task, DescribeEnvironment):
            return Ending(JobResult(Outcome.OK, None, self.environment), None, 0, False, 0.1)
        size = job.task.work.setting["size"]
        self.measured.append(size)
        return self.endings.get(size, Ending(MEASURED, None, 0, False, 0.1))


class FakeHandle:
    """A job that ends at once. Its machine is read as a real executor reads it."""

    def __init__(self, executor: FakeExecutor, job: Job[Any]) -> None:
        self.executor, self.job = executor, job

    def wait(self, on_message=lambda message: None, is_cancelled=None):
        monitor = JobMonitor(self.executor.readers, self.job.is_monitored)
        ending = self.executor.ending(self.job)
        if not isinstance(self.job.task, DescribeEnvironment):
            monitor.on_phase("build", 1)
            on_message(PhaseEntered("build"))
            monitor.on_tick(1)
        return replace(ending, timeout_s=self.job.timeout_s, machine=monitor.readings())


class Silent:
    def scheduled(self, runs, finished, note):
        self.waiting, self.note = len(runs) - finished, note

    def started(self, run):
        pass

    def progressed(self, run, phase):
        pass

    def finished(self, run, record):
        pass
