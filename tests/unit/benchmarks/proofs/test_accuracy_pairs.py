"""Accuracies of two arms paired over clips."""

import json
import math

import pytest
from fake_runs import HALVED, SHED, FakeRun, epoch_metrics, setting

from benchmarks.proofs.accuracy_pairs import main, pairs
from slr_bench.errors import NotComparableError


def hits(*rows):
    return {seed: {f"v{clip}": bool(hit) for clip, hit in enumerate(row)} for seed, row in enumerate(rows)}


def test_difference_and_interval_are_the_closed_forms():
    base, head = hits([1, 1, 0, 0], [1, 0, 0, 0]), hits([1, 1, 1, 0], [1, 1, 1, 0])
    found = pairs(base, head)
    gains = [0.0, 0.5, 1.0, 0.0]  # a clip's mean over the seeds
    mean = sum(gains) / 4
    error = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / 3 / 4)
    assert found.base == (0.5, 0.25)
    assert found.head == (0.75, 0.75)
    assert found.difference == pytest.approx(mean)
    assert found.low_over_clips == pytest.approx(mean - 1.6448536 * error)
    assert found.low_over_both <= found.difference


def test_without_any_variation_the_bounds_are_the_difference():
    found = pairs(hits([1] * 30, [1] * 30), hits([0] * 30, [0] * 30))
    assert (found.difference, found.low_over_clips, found.low_over_both) == (-1, -1, -1)


def test_seeds_that_disagree_widen_the_bound_over_both():
    """Every clip gains in one seed and loses in the other: clips do not vary, seeds do."""
    found = pairs(hits([1] * 50, [0] * 50), hits([0] * 50, [1] * 50))
    assert found.low_over_clips == 0
    assert found.low_over_both == -1


def test_one_seed_says_nothing_of_others(tmp_path, capsys):
    run = trained(tmp_path / "run", seeds=(0,), baseline=0, optimized=1).write()
    assert main([str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["low_over_both"] is None
    assert main([str(run)]) == 0
    assert "over clips, unknown over clips and seeds" in capsys.readouterr().out


def test_other_clips_or_no_common_seed_do_not_compare():
    with pytest.raises(NotComparableError, match="evaluated on different clips"):
        pairs(hits([1, 0]), hits([1, 0, 1]))
    with pytest.raises(NotComparableError, match="no training of the same seed"):
        pairs({1: {"a": True}}, {2: {"a": True}})


def trained(directory, seeds=(0, 1), fingerprint="data", events=(), **wrong_by_arm):
    run = FakeRun(directory)
    run.environment = run.environment | {"data_fingerprint": fingerprint}
    for arm, wrong in wrong_by_arm.items():
        for seed in seeds:
            values = setting(16, 1, "fp32")
            values["training"]["seed"] = seed
            cell = run.cell(arm, "train_epochs", repeats=1, setting=values)
            ranks = {f"v{clip}": int(clip < wrong) for clip in range(100)}
            run.record(
                cell, 0, epoch_metrics(1 - wrong / 100, 60), series={"details": {"val_ranks": ranks}}, events=events
            )
    return run


@pytest.mark.parametrize(("lost", "code"), [(0, 0), (10, 1)])
def test_the_command_reads_a_run_directory(tmp_path, capsys, lost, code):
    run = trained(tmp_path / "run", baseline=0, optimized=lost)
    assert main([str(run.write()), "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert (found["seeds"], found["clips"], found["difference"]) == ([0, 1], 100, -lost / 100)


def test_arms_of_two_directories_are_read_together(tmp_path, capsys):
    base = trained(tmp_path / "base", seeds=(0, 1, 2), baseline=0).write()
    head = trained(tmp_path / "head", optimized=1).write()
    assert main([str(base), str(head), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["seeds"], found["difference"]) == ([0, 1], -0.01)


def test_directories_of_two_data_sets_are_not_mixed(tmp_path, capsys):
    base = trained(tmp_path / "base", baseline=0).write()
    head = trained(tmp_path / "head", fingerprint="other", optimized=2).write()
    assert main([str(base), str(head)]) == 4
    assert "another torch or data" in capsys.readouterr().err


def test_an_empty_directory_is_told(tmp_path, capsys):
    assert main([str(FakeRun(tmp_path / "run").write())]) == 5
    assert "holds no finished training" in capsys.readouterr().err


def test_a_training_that_changed_its_batches_is_refused(tmp_path, capsys):
    run = trained(tmp_path / "run", events=(SHED, HALVED), baseline=0, optimized=0).write()
    assert main([str(run)]) == 4
    err = capsys.readouterr().err
    assert "(arm 'baseline') changed its batches after step 12" in err
    assert "train it again with training.dynamic_batch_size: false" in err
    assert err.count("\n") == 1


def test_shed_caches_are_accepted(tmp_path):
    assert main([str(trained(tmp_path / "run", events=(SHED,), baseline=0, optimized=0).write())]) == 0
