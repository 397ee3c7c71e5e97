"""Two sources measured interleaved, over executors made by hand: order, resuming, broken pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_executor import MEASURED, STILL, TOY, FakeExecutor, Toy, id_of

from slr_bench.execute.job import Ending
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import GridConfig
from slr_bench.probes import host
from slr_bench.run import runner
from slr_bench.run.revisions.measure import run_pairs
from slr_bench.run.runner import BROKEN_PAIR, SessionConfig, Source
from slr_bench.run.store import Pairing, Store


class Listener:
    """Keeps the runs in the order they were finished."""

    def __init__(self):
        self.runs, self.planned_runs, self.earlier = [], 0, 0

    def scheduled(self, runs, finished, note):
        self.planned_runs, self.earlier = len(runs), finished

    def started(self, run):
        pass

    def progressed(self, run, phase):
        pass

    def finished(self, run, record):
        assert record.side == "a"  # of its own directory
        self.runs.append((run.side, run.cell.settings.size, run.repeat))


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """``pair(base=(1, 2), head=(1, 2))`` measures these settings of two sources interleaved."""
    monkeypatch.setattr(host, "tree_pss_bytes", lambda pid: 4096)

    def run(base=(1, 2), head=(1, 2), repeats=8, executors=None) -> Listener:
        made = executors or {"base": FakeExecutor(), "head": FakeExecutor()}
        variables = {}

        def executor(preload, environment, readers):
            side = environment["SIDE"]
            variables[side] = environment
            return made[side](preload, environment, readers)

        monkeypatch.setattr(runner, "LocalExecutor", executor)
        listener = Listener()
        run_pairs(config(tmp_path, "base", base, repeats), config(tmp_path, "head", head, repeats), listener)
        assert {name: value["SIDE"] for name, value in variables.items()} == {"base": "base", "head": "head"}
        return listener

    return run


def config(place: Path, side: str, sizes, repeats: int) -> SessionConfig:
    grid = GridConfig(workload="toy", repeats=repeats)
    cells = [Cell(id_of(size), "a", TOY, grid, Toy(size=size), {"size": size}, is_own=True) for size in sizes]
    source = Source(f"hash of {side}", {"SIDE": side})
    pairing = Pairing(pair="one", name=side)
    return SessionConfig(grid, cells, Store(place / side), False, "x", readers=STILL, source=source, pairing=pairing)


def records(place: Path, side: str):
    return {record.name: record for record in Store(place / side).read_records()[0]}


def test_a_repeat_is_a_pair_of_neighbours_in_an_order_that_a_coin_decides(pair, tmp_path):
    listener = pair()
    assert len(listener.runs) == listener.planned_runs == 2 * 2 * 8
    pairs = list(zip(listener.runs[::2], listener.runs[1::2], strict=True))
    assert all((one[1:], {one[0], other[0]}) == (other[1:], {"a", "b"}) for one, other in pairs)
    assert {one[0] for one, _ in pairs} == {"a", "b"}
    for side in ("base", "head"):
        assert len(records(tmp_path, side)) == 16
        manifest = Store(tmp_path / side).read_manifest()
        assert (manifest.source_hash, manifest.pairing) == (f"hash of {side}", Pairing(pair="one", name=side))


def test_only_common_cells_are_run_and_all_are_listed(pair, tmp_path):
    listener = pair(base=(1, 2, 3), head=(2, 4), repeats=1)
    assert sorted(listener.runs) == [("a", 2, 0), ("b", 2, 0)]
    listed = [
        [cell.setting["size"] for cell in Store(tmp_path / side).read_manifest().cells] for side in ("base", "head")
    ]
    assert listed == [[1, 2, 3], [2, 4]]


def test_missing_runs_are_made_and_a_broken_pair_gets_a_warning(pair, tmp_path):
    pair(base=(1,), head=(1,), repeats=2)
    lost = f"{id_of(1)}-a-1"
    (tmp_path / "head" / "records" / f"{lost}.json").unlink()
    kept = {path: path.read_bytes() for path in tmp_path.glob("*/records/*.json")}
    listener = pair(base=(1,), head=(1,), repeats=3)
    assert (listener.planned_runs, listener.earlier, len(listener.runs)) == (6, 3, 3)
    marks = {name: record.marks for name, record in records(tmp_path, "head").items()}
    assert marks.pop(lost) == (BROKEN_PAIR,)
    assert set(marks.values()) == {()}
    assert {path: path.read_bytes() for path in kept} == kept


def test_the_same_command_has_the_same_order_every_time(pair, tmp_path):
    first = pair(base=(1,), head=(1,)).runs
    for path in tmp_path.glob("*/records/*.json"):
        path.unlink()
    assert pair(base=(1,), head=(1,)).runs == first


def test_a_crash_of_one_side_stops_neither(pair, tmp_path):
    ends = {1: Ending(None, 9, None, False, 0.1), 2: Ending(MEASURED, None, 0, False, 0.1)}
    pair(repeats=1, executors={"base": FakeExecutor(), "head": FakeExecutor(ends)})
    ends = [
        {record.setting["size"]: record.outcome for record in records(tmp_path, side).values()}
        for side in ("base", "head")
    ]
    assert ends == [{1: "ok", 2: "ok"}, {1: "crash", 2: "ok"}]


def test_both_directories_are_held_before_anything_runs(pair, tmp_path):
    with Store(tmp_path / "head").locked(), pytest.raises(Exception, match="in use by another run"):
        pair()
    assert records(tmp_path, "base") == {}
