"""PSS of a process tree with 4 loader workers against the truth, page by page."""

import mmap
import os
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from slr_bench.probes.tree import read_process, tree_pids, tree_pss_bytes
from slr_bench.units import MIB

WORKERS = 4
READINGS = 200
SHARED, PRIVATE = 128 * MIB, 24 * MIB
TRUTH = SHARED + WORKERS * PRIVATE
"""Shared pages count once in all, however many map them; private ones once for each that has them."""


def touch(block: mmap.mmap, size: int) -> None:
    for offset in range(0, size, mmap.PAGESIZE):
        block[offset] = 1


class Touching(Dataset):
    """Item ``i`` of the first round does nothing; of the second, its worker touches the shared and its own pages."""

    def __init__(self, shared: mmap.mmap, release: int) -> None:
        self.shared, self.release, self.own = shared, release, None

    def __len__(self) -> int:
        return 3 * WORKERS

    def __getitem__(self, index: int) -> int:
        if index >= WORKERS and self.own is None:
            os.read(self.release, 1)  # until the parent has read the tree without them
            self.own = mmap.mmap(-1, PRIVATE, flags=mmap.MAP_PRIVATE)
            touch(self.shared, SHARED)
            touch(self.own, PRIVATE)
        return os.getpid()


def tree_file_pss_bytes() -> int:
    """PSS of file pages: split with strangers, too. One that maps torch's libraries meanwhile moves it."""
    texts = [Path(f"/proc/{member}/smaps_rollup").read_text() for member in tree_pids(os.getpid())]
    lines = [line for text in texts for line in text.splitlines() if line.startswith("Pss_File:")]
    return sum(int(line.split()[1]) * 1024 for line in lines)


def tree_own_pss_bytes() -> int:
    """Return the reading of the meter under test without file pages, taken while those did not change."""
    for _ in range(READINGS):
        file_before, total = tree_file_pss_bytes(), tree_pss_bytes(os.getpid())
        if tree_file_pss_bytes() == file_before:
            return total - file_before
    pytest.fail(f"the file pages of this tree moved in each of {READINGS} readings: other programs come and go")


def tree_rss_bytes(pid: int) -> int:
    return sum(process.rss_bytes for member in tree_pids(pid) if (process := read_process(member)))


@pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:.*use of fork")
@pytest.mark.parametrize("parent_touches", [False, True], ids=["workers alone", "parent too"])
def test_pss_of_a_tree_with_four_loader_workers_is_the_truth_within_two_percent(parent_touches):
    release, go = os.pipe()
    with mmap.mmap(-1, SHARED) as shared:
        loader = DataLoader(
            Touching(shared, release),
            batch_size=1,
            num_workers=WORKERS,
            prefetch_factor=1,
            multiprocessing_context="fork",
        )
        batches = iter(loader)
        first = [int(next(batches)) for _ in range(WORKERS)]
        before, rss_before = tree_own_pss_bytes(), tree_rss_bytes(os.getpid())
        assert len(set(first)) == WORKERS
        assert set(tree_pids(os.getpid())) >= {os.getpid(), *first}
        os.write(go, b"x" * WORKERS)
        assert {int(next(batches)) for _ in range(WORKERS)} == set(first)
        if parent_touches:
            touch(shared, SHARED)
        rise = tree_own_pss_bytes() - before
        rss_rise = tree_rss_bytes(os.getpid()) - rss_before
        del batches
    os.close(release)
    os.close(go)
    print(f"PSS of the tree rose by {rise} bytes, the truth is {TRUTH}: {rise / TRUTH - 1:+.3%}")
    assert abs(rise - TRUTH) <= 0.02 * TRUTH
    sharers = WORKERS + parent_touches
    assert rss_rise >= 0.98 * (sharers * SHARED + WORKERS * PRIVATE)  # why RSS is not summed
