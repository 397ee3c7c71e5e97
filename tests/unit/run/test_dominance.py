"""Dominance of cells after an out-of-memory: a strict partial order, used only on evidence."""

from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from slr_bench.grid.cells import Cell
from slr_bench.grid.config import Part
from slr_bench.grid.workload import WorkloadSpec
from slr_bench.record import Outcome
from slr_bench.run.schedule import Dominance


class Toy(BaseModel):
    model_config = ConfigDict(frozen=True)

    batch: int | None = 1
    frames: int = 1
    precision: str = "fp32"


def spec(monotone=("batch", "frames"), name="toy") -> WorkloadSpec:
    return WorkloadSpec(name=name, settings=Toy, build=print, monotone=monotone)


TOY = spec()


def cell(name: str, of: WorkloadSpec = TOY, **values) -> Cell:
    return Cell(name, "a", of, Part(), Toy(**values), {}, is_own=True)


def end(cell_id: str, outcome: Outcome) -> SimpleNamespace:
    return SimpleNamespace(cell_id=cell_id, outcome=outcome)


TOYS = st.builds(Toy, batch=st.integers(1, 3), frames=st.integers(1, 3), precision=st.sampled_from(["fp32", "bf16"]))


@settings(deadline=None)
@given(st.lists(TOYS, min_size=3, max_size=3))
def test_dominance_is_a_strict_partial_order(toys):
    order = Dominance([cell(str(number), **toy.model_dump()) for number, toy in enumerate(toys)])
    assert not order.dominates("0", "0")
    assert not (order.dominates("0", "1") and order.dominates("1", "0"))
    if order.dominates("0", "1") and order.dominates("1", "2"):
        assert order.dominates("0", "2")


@settings(deadline=None)
@given(TOYS, TOYS)
def test_dominance_compares_the_monotone_keys(small, large):
    order = Dominance([cell("small", **small.model_dump()), cell("large", **large.model_dump())])
    at_most = small.batch <= large.batch and small.frames <= large.frames
    assert order.dominates("small", "large") == (small.precision == large.precision and at_most and small != large)


def test_without_declared_keys_and_across_workloads_nothing_is_ordered():
    other = spec(name="other")
    for pair in (
        [cell("1", spec(())), cell("2", spec(()), batch=2)],
        [cell("1"), cell("2", other, batch=2)],
        [cell("1", batch=None), cell("2", batch=2)],
    ):
        assert not Dominance(pair).dominates("1", "2")
    assert not Dominance([cell("1")]).dominates("1", "unknown")


CELLS = [cell("one", batch=1), cell("two", batch=2), cell("four", batch=4), cell("bf16", batch=4, precision="bf16")]


def test_what_is_larger_than_an_out_of_memory_is_not_run_and_the_reason_names_it():
    for outcome, words in ((Outcome.OOM_GPU, "out of GPU memory"), (Outcome.OOM_HOST, "out of RAM")):
        reason = Dominance(CELLS).why_skipped("four", [end("one", Outcome.OK), end("two", outcome)])
        assert all(word in reason for word in ("cell two", "batch 4 > 2", words, outcome, "--no-skip"))


def test_everything_else_is_run():
    order, failed = Dominance(CELLS), end("two", Outcome.OOM_GPU)
    assert order.why_skipped("four", []) is None
    for name in ("one", "two", "bf16"):
        assert order.why_skipped(name, [failed]) is None
    for outcome in set(Outcome) - {Outcome.OOM_GPU, Outcome.OOM_HOST}:
        assert order.why_skipped("four", [end("two", outcome)]) is None


def test_cell_that_ended_ok_contradicts_dominance():
    order = Dominance(CELLS)
    assert order.why_skipped("four", [end("two", Outcome.OOM_HOST), end("two", Outcome.OK)]) is None
    assert order.why_skipped("four", [end("two", Outcome.OOM_HOST), end("four", Outcome.OK)]) is None
