"""Compares accuracies with counts by hand."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyBatch
from torch import nn
from torch.nn import functional as F

from models.training.evaluation import evaluate
from slr_bench.errors import DataError


class Echo(nn.Module):
    """A network that returns the first pixels of a clip as its logits."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes
        self.dropout = nn.Dropout(0.9)

    def forward(self, clips_BTCHW):
        return self.dropout(clips_BTCHW.flatten(1)[:, : self.classes])


def batches(logits, labels, size):
    logits_BK, labels_B = torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)
    clips_BTCHW = logits_BK[:, None, None, None, :]
    ids = torch.arange(len(labels_B)).split(size)
    parts = zip(clips_BTCHW.split(size), labels_B.split(size), ids, strict=True)
    return [TinyBatch(clips, own, tuple(f"v{number}" for number in numbers.tolist())) for clips, own, numbers in parts]


def run(logits, labels, size=2):
    model = Echo(len(logits[0]))
    return evaluate(model, batches(logits, labels, size), torch.device("cpu"), nullcontext())


@pytest.mark.parametrize("size", [1, 3, 8])
def test_accuracies_and_ranks_are_counted(size):
    ramp = [7.0, 6.0, 5.0, 4.0, 3.0, 2.0]
    labels = [0, 0, 0, 1, 4, 5]
    result = run([ramp] * 6, labels, size)
    assert result.ranks == {f"v{clip}": label for clip, label in enumerate(labels)}
    assert result.clips == 6
    assert result.top1 == pytest.approx(3 / 6)
    assert result.top5 == pytest.approx(5 / 6)
    assert result.per_class_top1 == pytest.approx(1 / 4)  # class 0 all, classes 1, 4 and 5 none; 2 and 3 do not occur
    expected = F.cross_entropy(torch.tensor([ramp] * 6), torch.tensor(labels))
    assert result.loss == pytest.approx(expected.item(), rel=1e-6)


@settings(deadline=None)
@given(st.integers(2, 14), st.lists(st.integers(0, 13), min_size=1, max_size=30), st.integers(0, 2**32), st.data())
def test_per_instance_and_per_class_top_k_equal_counting_clip_by_clip(classes, labels, seed, data):
    labels = [label % classes for label in labels]
    logits = torch.rand(len(labels), classes, generator=torch.Generator().manual_seed(seed)).tolist()
    result = run(logits, labels, data.draw(st.integers(1, len(labels))))
    for places in (1, 5, 10):
        by_class = {}
        for row, label in zip(logits, labels, strict=True):
            best = sorted(range(classes), key=row.__getitem__, reverse=True)[:places]
            by_class.setdefault(label, []).append(label in best)
        hits = [hit for found in by_class.values() for hit in found]
        means = [sum(found) / len(found) for found in by_class.values()]
        assert getattr(result, f"top{places}") == pytest.approx(sum(hits) / len(hits))
        assert getattr(result, f"per_class_top{places}") == pytest.approx(sum(means) / len(means))


def test_ties_and_nan_do_not_count_as_recognised():
    assert run([[1.0, 1.0, 0.0]], [0]).top1 == 0
    assert run([[float("nan")] * 3], [0]).top1 == 0
    assert run([[2.0, float("nan"), 0.0]], [0]).top1 == 0


def test_mode_is_restored_and_no_gradient_is_kept():
    for training in (True, False):
        model = Echo(3).train(training)
        evaluate(model, batches([[1.0, 2.0, 3.0]], [2], 1), torch.device("cpu"), nullcontext())
        assert model.training is training
    weights = torch.ones(3, requires_grad=True)
    model.forward = lambda clips: clips.flatten(1) * weights
    evaluate(model, batches([[1.0, 2.0, 3.0]], [2], 1), torch.device("cpu"), nullcontext())
    assert weights.grad is None


def test_empty_split_is_refused():
    with pytest.raises(DataError, match="no clips"):
        evaluate(Echo(3), [], torch.device("cpu"), nullcontext())
