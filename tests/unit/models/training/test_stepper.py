"""One optimizer step: accumulation equals the full batch, one micro-batch alive, precisions, fake tensors."""

import weakref
from contextlib import contextmanager, suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyBatch, TinyLoader, TinyNet, tiny_config
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from models.config import ModelConfig
from models.networks.efficient import build_recogniser
from models.training import stepper as stepper_module
from models.training.optimization import fp32_products
from models.training.stepper import Stepper


def make(norm=False, dropout=0.0, dtype=torch.float64, phase=None, total_steps=10, **changes):
    torch.manual_seed(0)
    model = TinyNet(norm, dropout).to(dtype)
    arguments = () if phase is None else (phase,)
    return Stepper(model, tiny_config(**changes), "cpu", total_steps, *arguments)


def clips(count):
    return next(iter(TinyLoader(count, count)))


def cut(batch, sizes):
    parts = zip(batch.clips_BTCHW.split(sizes), batch.labels_B.split(sizes), strict=True)
    return [TinyBatch(part, labels, ()) for part, labels in parts]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.sampled_from(["adamw", "sgd"]))
def test_unequal_micro_batches_equal_the_full_batch(sizes, optimizer):
    batch = clips(sum(sizes))
    whole, parts = make(optimizer=optimizer), make(optimizer=optimizer)
    loss_whole = whole.step([batch], sum(sizes)).loss
    loss_parts = parts.step(cut(batch, sizes), sum(sizes)).loss
    torch.testing.assert_close(loss_parts, loss_whole, rtol=1e-12, atol=1e-12)
    for a, b in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)  # AdamW divides by tiny gradients


def test_step_equals_the_textbook_step():
    """Compare with a plain loop: smoothed loss, clipping by hand, decay on matrices only, first warm-up rate."""
    stepper = make(optimizer="sgd", gradient_clip_norm=0.01, total_steps=40, weight_decay=0.5)
    torch.manual_seed(0)
    model = TinyNet(False, 0.0).double()
    batch = clips(6)
    F.cross_entropy(model(batch.clips_BTCHW), batch.labels_B, label_smoothing=0.1).backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    with torch.no_grad():
        for p in model.parameters():
            decay = 0.5 * p if p.ndim > 1 else 0.0
            p -= 0.01 / 5 * (p.grad * 0.01 / (norm + 1e-6) + decay)  # 4 of 40 steps warm up: the first rate is a fifth
    stepper.step([batch], 6)
    assert norm > 0.01
    for a, b in zip(stepper.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_no_gradient_outlives_the_step_and_one_micro_batch_is_alive():
    alive, seen = [], []

    def batches():
        for batch in TinyLoader(12, 4):
            seen.append(weakref.ref(batch.clips_BTCHW))
            yield_me = [batch]
            del batch
            yield yield_me.pop()
            alive.append(sum(ref() is not None for ref in seen))

    stepper = make()
    stepper.step(batches(), 12)
    assert alive == [0, 0, 0]
    assert all(parameter.grad is None for parameter in stepper.model.parameters())


def test_clips_are_free_after_the_network_selected_its_part():
    alive, refs = [], []

    class Half(TinyNet):
        def select(self, clips_BTCHW):
            assert not torch.is_grad_enabled()
            return clips_BTCHW[:, :1].clone()

        def forward(self, clips_BTCHW):
            alive.append([ref() is not None for ref in refs])
            assert clips_BTCHW.shape[1] == 1
            return super().forward(clips_BTCHW)

    def batches():
        for batch in TinyLoader(12, 4):
            refs.append(weakref.ref(batch.clips_BTCHW))
            held = [batch]
            del batch
            yield held.pop()

    Stepper(Half(), tiny_config(), "cpu", 10).step(batches(), 12)
    assert alive == [[False] * count for count in (1, 2, 3)]


def test_phases_are_entered_in_order():
    names = []

    @contextmanager
    def phase(name):
        names.append(name)
        yield
        names.append(f"/{name}")

    make(phase=phase).step(TinyLoader(8, 4), 8)
    # What the network looks at is made first, so that the clips can go; the forward pass comes after it.
    micro = ["load", "/load", "forward", "/forward", "forward", "/forward", "backward", "/backward"]
    assert names == [*micro, *micro, "load", "/load", "optimizer", "/optimizer"]


def test_step_result_describes_the_step():
    stepper = make()
    batch = clips(5)
    expected = (stepper.model(batch.clips_BTCHW).argmax(1) == batch.labels_B).sum()
    rate = stepper.schedule.get_last_lr()[0]
    result = stepper.step(cut(batch, [2, 3]), 5)
    assert len(result.losses) == 2
    assert torch.equal(torch.stack(result.losses).sum(), result.loss)
    assert result.correct == expected
    assert (result.clips, result.learning_rate, result.is_skipped) == (5, rate, False)


def test_bf16_keeps_master_weights_in_fp32():
    stepper = make(norm=True, dtype=torch.float32, precision="bf16")
    seen = []
    stepper.model.head.register_forward_hook(lambda module, inputs, out: seen.append(out.dtype))
    before = stepper.model.head.weight.detach().clone()
    stepper.step(TinyLoader(8, 4), 8)
    assert seen == [torch.bfloat16] * 2
    assert stepper.model.head.weight.dtype == torch.float32
    assert not torch.equal(stepper.model.head.weight, before)


def fp16_stepper():
    with pytest.warns(UserWarning, match="fp16 on a CPU"):
        return make(dtype=torch.float32, precision="fp16", gradient_clip_norm=1.0)


def test_fp16_gradient_is_unscaled_before_it_is_clipped():
    """The first step of SGD moves by rate x gradient; clipped after unscaling, fp16 nearly equals fp32."""
    moved = []
    for precision in ("fp16", "fp32"):
        changes = {"dtype": torch.float32, "precision": precision, "optimizer": "sgd", "gradient_clip_norm": 0.01}
        if precision == "fp16":
            with pytest.warns(UserWarning, match="fp16 on a CPU"):
                stepper = make(weight_decay=0.0, **changes)
        else:
            stepper = make(weight_decay=0.0, **changes)
        before = nn.utils.parameters_to_vector(stepper.model.parameters()).detach()
        stepper.step(TinyLoader(8, 4), 8)
        moved.append(nn.utils.parameters_to_vector(stepper.model.parameters()).detach() - before)
    torch.testing.assert_close(moved[0], moved[1], rtol=0.02, atol=1e-7)
    assert moved[1].abs().max() > 1e-5


def test_fp16_overflow_moves_neither_weights_nor_schedule():
    stepper = fp16_stepper()
    before = {name: value.clone() for name, value in stepper.model.state_dict().items()}
    rate = stepper.schedule.get_last_lr()
    stepper.model.head.weight.register_hook(lambda grad: grad * float("inf"))
    assert stepper.step(TinyLoader(4, 4), 4).is_skipped
    assert all(torch.equal(before[name], value) for name, value in stepper.model.state_dict().items())
    assert stepper.schedule.get_last_lr() == rate
    assert stepper.scaler.get_scale() < 2**16


BACKENDS = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)


def precisions():
    return [backend.fp32_precision for backend in BACKENDS]


@pytest.mark.parametrize(("precision", "inside"), [("tf32", ["tf32"] * 3), ("fp32", ["ieee"] * 3)])
def test_fp32_products_are_set_for_cuda_and_restored(precision, inside):
    before = precisions()
    with suppress(KeyError), fp32_products(tiny_config(precision=precision)):
        assert precisions() == inside
        raise KeyError
    assert precisions() == before
    assert before not in (["tf32"] * 3, ["ieee"] * 3)  # torch's default is neither


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_fp32_products_do_not_change_in_other_precisions(precision):
    before = precisions()
    with fp32_products(tiny_config(precision=precision)):
        assert precisions() == before


def test_steps_and_evaluation_run_with_the_products_of_their_precision(monkeypatch):
    seen = []

    @contextmanager
    def noted(config):
        seen.append(f"enter {config.precision}")
        yield
        seen.append("leave")

    monkeypatch.setattr(stepper_module, "fp32_products", noted)
    stepper = make(precision="tf32", dtype=torch.float32)
    stepper.model.head.weight.register_hook(lambda grad: seen.append("backward"))
    stepper.step([clips(4)], 4)
    stepper.evaluate(TinyLoader(4, 4))
    assert seen == ["enter tf32", "backward", "leave", "enter tf32", "leave"]


def test_tf32_on_a_cpu_is_fp32():
    ways = [make(precision=precision, dtype=torch.float32) for precision in ("tf32", "fp32")]
    for stepper in ways:
        stepper.step([clips(4)], 4)
    assert all(torch.equal(a, b) for a, b in zip(*(way.model.parameters() for way in ways), strict=True))


def fake_model(mode):
    model = build_recogniser(
        ModelConfig(num_classes=CLASSES, base_channels=8, num_frames=2, pyramid_levels=(1, 2)), "block"
    )
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(mode.from_tensor(parameter.data)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, mode.from_tensor(buffer))
    return model


CLASSES = 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_step_runs_on_fake_tensors(precision, optimizer):
    mode = FakeTensorMode()
    model = fake_model(mode)
    stepper = Stepper(model, tiny_config(precision=precision, optimizer=optimizer), "cpu", 5)
    with mode:
        for _ in range(2):  # the second has optimizer state
            batch = TinyBatch(torch.zeros(2, 2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), ())
            assert stepper.step(iter([batch]), 2).loss.shape == ()
    assert len(stepper.optimizer.state) == len(list(model.parameters()))
