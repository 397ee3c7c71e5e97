"""Tests of a trace under CUDA's rules against CUDA's own dispatch: operators, results and saved bytes."""

from __future__ import annotations

import contextlib
import gc
import itertools
import sys
import types
import warnings

import pytest
import torch
import torchvision
from cuda_oracle import autocast, fake_mode, forward, routes
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.config import ModelConfig
from models.networks.efficient import build_recogniser
from slr_bench.errors import UnsupportedSettingError
from slr_bench.live_bytes import LiveBytes
from slr_bench.trace.fake import cuda_rules
from slr_bench.trace.fake.cuda_rules import CudaFakeMode, aten_names, casts_on, cuda_routes
from slr_bench.trace.fake.tensors import CpuFakeMode
from slr_bench.trace.recorder import Recorder

CPU = torch.device("cpu")
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
HAS_CUDA_KERNELS = torch.backends.cuda.is_built()
needs_cuda_build = pytest.mark.skipif(not HAS_CUDA_KERNELS, reason="this torch was built without CUDA's dispatch")

# B clip, T frame, C channel, H height, W width, D feature


class InHalf(nn.Module):
    """Weights, statistics and inputs in bf16, no autocast."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x.bfloat16())


class Masked(nn.Module):
    """Attention with a bool mask and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.to_query = nn.Linear(16, 16)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        query = self.to_query(x_BTD).unflatten(-1, (2, 8)).transpose(1, 2)
        mask_TT = torch.ones(x_BTD.shape[1], x_BTD.shape[1], dtype=torch.bool, device=x_BTD.device).tril()
        return functional.scaled_dot_product_attention(query, query, query, attn_mask=mask_TT, dropout_p=0.1)


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.1)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def vit() -> nn.Module:
    return torchvision.models.VisionTransformer(64, 16, 1, 4, 64, 128, dropout=0.1)


def group_norm_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.GroupNorm(2, 8),
        nn.GELU(),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(8 * 28 * 28, 4),
        nn.Softmax(-1),
    )


def vector_norms() -> nn.Module:
    norms = (nn.BatchNorm1d(16, affine=False), nn.BatchNorm1d(16, track_running_stats=False), nn.LayerNorm(16))
    return nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 16), *norms)


def ours(**values):
    config = ModelConfig(**{"num_classes": 5, "base_channels": 8, "num_frames": 4} | values)
    return (lambda: build_recogniser(config)), (2, 4, 3, 40, 40)


LIGHT = {
    "resnet18": (torchvision.models.resnet18, (2, 3, 64, 64)),
    "resnet18 in evaluation": (lambda: torchvision.models.resnet18().eval(), (2, 3, 64, 64)),
    "encoder": (encoder, (2, 16, 64)),
    "vit": (vit, (2, 3, 64, 64)),
    "vit in half": (lambda: InHalf(vit()), (2, 3, 64, 64)),
    "masked": (Masked, (2, 6, 16)),
    "group norm": (group_norm_net, (2, 3, 16, 16)),
    "vector norms": (vector_norms, (4, 16)),
    "vector norms in evaluation": (lambda: vector_norms().eval(), (4, 16)),
    "ours": ours(),
}
HEAVY = {
    "resnet18 in half": (lambda: InHalf(torchvision.models.resnet18()), (2, 3, 64, 64)),
    "mobilenet": (torchvision.models.mobilenet_v3_small, (2, 3, 64, 64)),
    "r3d_18": (torchvision.models.video.r3d_18, (1, 3, 8, 32, 32)),
    "convnext": (torchvision.models.convnext_tiny, (2, 3, 64, 64)),
    "s3d": (torchvision.models.video.s3d, (1, 3, 16, 224, 224)),
    "mvit": (torchvision.models.video.mvit_v2_s, (1, 3, 16, 224, 224)),
    "swin3d": (torchvision.models.video.swin3d_t, (1, 3, 8, 64, 64)),
    "our i3d": ours(network="i3d", base_channels=64, num_frames=8),
    "our dense": ours(attention="dense", temporal_shift="plain", max_pool="plain"),
    "our sparse": ours(attention="sparse", temporal_shift="none"),
    "our split stem": ours(attention="none", stem="split"),
    "our group norm": ours(norm="group"),
    "our focus": ours(region_focus="motion", focus_size=32),
    "our merging": ours(token_merging=1, pyramid_levels=(1, 2)),
    "our budget": ours(frame_budget=3, pyramid_levels=(1, 2)),
    "our stream": ours(causal=True, attention="sparse", attention_global_frames=0),
}
NETWORKS = LIGHT | HEAVY
TYPES = {"fp32": None, "bf16": BF16, "fp16": F16}
EVERY_DAY = {"resnet18": ("bf16",), "resnet18 in evaluation": ("fp16",), "ours": ("bf16",)}
"""Types of those light ones that cost more than a second."""


FORWARDS = [
    pytest.param(
        name, precision, marks=[] if name in LIGHT and precision in EVERY_DAY.get(name, TYPES) else [pytest.mark.slow]
    )
    for name, precision in itertools.product(NETWORKS, TYPES)
    if precision == "fp32" or not name.endswith("in half")  # without autocast
]


@needs_cuda_build
@pytest.mark.parametrize(("name", "precision"), FORWARDS)
def test_forward_pass_calls_the_operators_of_cuda_and_keeps_the_same_bytes(name, precision):
    build, shape = NETWORKS[name]
    expected, found = (forward(build, shape, device, TYPES[precision]) for device in ("cuda", "cpu"))
    for number, (one, other) in enumerate(zip(expected.operators, found.operators, strict=False)):
        assert other == one, f"operator {number}"
    assert found == expected
    assert len(found.operators) > 2


def test_without_the_routes_the_passes_differ(monkeypatch):
    """The comparison can fail: the CPU's own dropout keeps its mask in the type of the activations."""
    build, shape = LIGHT["encoder"]
    routed = forward(build, shape, "cpu", BF16)
    monkeypatch.setattr("cuda_oracle.routes", lambda device: contextlib.nullcontext())
    assert forward(build, shape, "cpu", BF16).saved_bytes > routed.saved_bytes


@needs_cuda_build
def test_each_operator_that_cuda_casts_and_a_cpu_does_not_has_one_policy():
    """A release with another list fails here and not in a prediction."""
    missing = {name for name in aten_names() if casts_on("cuda", name) and not casts_on("cpu", name)}
    lists = [names.split() for names, _ in cuda_rules._POLICIES]
    routed = [name for names in lists for name in names]
    assert len(routed) == len(set(routed))
    assert missing <= set(routed)
    assert {name for name in routed if not casts_on("cuda", name)} == set()


def autocast_examples():
    """Torch's own list of operators with arguments, as its tests of CUDA's autocast have it."""
    name = "torch.testing._internal.common_utils"  # it asks for more packages than this list needs
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, types.SimpleNamespace(TEST_WITH_ROCM=False, TestCase=object))
        from torch.testing._internal.autocast_test_lists import AutocastTestLists
    return AutocastTestLists


def autocast_results(device: str) -> dict:
    """(list, number, place, operator) -> shapes and types of what it returned, or that it was refused."""
    found = {}
    with fake_mode(device), routes(device), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operators that torch advises against
        examples = autocast_examples()(torch.device(device))
        with autocast(device, F16):
            for kind, entries in vars(examples).items():
                for number, (name, arguments, *rest) in enumerate(entries):
                    if isinstance(arguments, str):  # einsum's equation
                        arguments = (arguments, *rest)
                    options = next((one for one in rest if isinstance(one, dict)), {})
                    spaces = [torch.Tensor] if kind.startswith("methods") else [torch, functional, torch._C._nn]
                    for space in spaces:
                        if hasattr(space, name):
                            key = kind, number, space.__name__, name
                            found[key] = result_of(getattr(space, name), arguments, options)
    return found


def result_of(operator, arguments, options) -> list:
    try:
        made = operator(*arguments, **options)
    except (RuntimeError, NotImplementedError, UnsupportedSettingError):
        return ["refused"]
    tensors = made if isinstance(made, (list, tuple)) else [made]
    return [(tensor.dtype, tuple(tensor.shape)) if isinstance(tensor, torch.Tensor) else tensor for tensor in tensors]


@needs_cuda_build
def test_autocast_casts_every_operator_as_cuda_does():
    expected, found = autocast_results("cuda"), autocast_results("cpu")
    differ = {key[-1] for key in expected if expected[key] != found[key]}
    assert differ <= {"gru_cell"}  # CUDA's asks the card for its kernel
    assert len(expected) > 150
    assert "binary_cross_entropy" in {key[-1] for key in expected if expected[key] == ["refused"]}


def test_operators_that_cuda_autocast_refuses_are_refused_in_one_line():
    refused = pytest.raises(UnsupportedSettingError, match=r"binary_cross_entropy.*_with_logits")
    with CudaFakeMode(), cuda_routes(), torch.autocast("cpu", BF16), refused:
        functional.binary_cross_entropy(torch.zeros(4), torch.zeros(4))


def choices() -> list:
    """Return what this process chooses for tensors of the CPU now."""
    with CpuFakeMode():
        with torch.autocast("cpu", BF16):
            softmax = functional.softmax(torch.ones(2, 2, dtype=BF16), -1).dtype
            padded = functional.pad(torch.ones(1, 1, 4, 4, dtype=BF16), (1, 1, 1, 1), mode="reflect").dtype
        x = torch.ones(1, 1, 2, 8, requires_grad=True)
        dropped = functional.dropout(x, 0.5, True).grad_fn.name()
        attended = functional.scaled_dot_product_attention(x, x, x).grad_fn.name()
    optimizers = sys.modules[torch.optim.Optimizer.__module__]
    devices = optimizers._get_foreach_kernels_supported_devices()
    return [softmax, padded, dropped, attended, devices, list(optimizers._foreach_supported_types)]


def test_the_routes_are_undone():
    before = choices()
    with cuda_routes():
        inside = choices()
    assert choices() == before
    assert all(one != other for one, other in zip(before, inside, strict=True))
    with pytest.raises(ZeroDivisionError), cuda_routes():
        raise ZeroDivisionError
    assert choices() == before


def attention_calls(query_shape=(2, 4, 16, 64), dtype=BF16, value_head=None, mask=None, backends=None, **options):
    """Operators of attention forward and backward on fake tensors, and the recorder."""
    mode = CudaFakeMode()
    with mode, cuda_routes():
        query, key = (torch.empty(query_shape, dtype=dtype, requires_grad=True) for _ in range(2))
        value = torch.empty((*query_shape[:-1], value_head or query_shape[-1]), dtype=dtype, requires_grad=True)
        recorder = Recorder(CPU, {"parameter": [query, key, value]}, fake=True, on_host=mode.is_on_host)
        with sdpa_kernel(backends) if backends else torch.enable_grad(), recorder:
            out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask and mask(), **options)
            out.sum().backward()
    assert out.shape == (*query_shape[:-1], value.shape[-1])
    for tensor in (query, key, value):
        assert tensor.grad.shape == tensor.shape
        assert tensor.grad.dtype == dtype
    return [operator.name.rpartition(".")[2] for operator in recorder.step_trace.operators], recorder


FLASH, EFFICIENT = "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"
MATH = "_safe_softmax"


def a_mask(columns=16, dtype=torch.bool):
    return lambda: torch.zeros(2, 1, 16, columns, dtype=dtype)


@pytest.mark.parametrize(
    ("options", "operator"),
    [
        ({}, FLASH),
        ({"dtype": F16, "is_causal": True, "dropout_p": 0.1}, FLASH),
        ({"dtype": F32}, EFFICIENT),
        ({"mask": a_mask()}, EFFICIENT),
        ({"mask": a_mask(dtype=BF16)}, EFFICIENT),
        ({"query_shape": (2, 4, 16, 60)}, FLASH),
        ({"query_shape": (2, 4, 16, 60), "dtype": F32}, EFFICIENT),
        ({"query_shape": (2, 4, 16, 62), "dtype": F32}, MATH),
        ({"query_shape": (2, 4, 16, 60), "mask": a_mask()}, MATH),
        ({"query_shape": (2, 4, 16, 256)}, FLASH),
        ({"query_shape": (2, 4, 16, 257)}, MATH),
        ({"query_shape": (2, 4, 16, 264)}, EFFICIENT),
        ({"value_head": 32}, MATH),
        ({"query_shape": (4, 16, 64)}, MATH),
        ({"backends": SDPBackend.MATH}, MATH),
        ({"backends": SDPBackend.EFFICIENT_ATTENTION}, EFFICIENT),
        ({"backends": [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION]}, FLASH),
    ],
)
def test_attention_uses_the_kernel_of_a_gpu(options, operator):
    calls, _ = attention_calls(**options)
    assert [name for name in calls if name in (FLASH, EFFICIENT, MATH)] == [operator]
    assert (f"{operator}_backward" in calls) == (operator != MATH)


def test_fused_attention_keeps_no_scores():
    """For 2 clips, 4 heads and 16 frames it keeps one fp32 sum per row, and never 16 x 16 scores."""
    scores = {(2, 4, 16, 16), (8, 16, 16)}
    for options, fused in (({}, True), ({"dtype": F32}, True), ({"backends": SDPBackend.MATH}, False)):
        _, recorder = attention_calls(**options)
        shapes = {storage.shape for storage in recorder.step_trace.storages}
        assert bool(shapes & scores) is not fused


def test_heads_of_an_odd_size_are_padded_to_a_multiple_of_8():
    _, recorder = attention_calls((2, 4, 16, 60))
    padded = [storage for storage in recorder.step_trace.storages if storage.shape == (2, 4, 16, 64)]
    assert sum(storage.operator == "aten.constant_pad_nd" for storage in padded) == 3
    assert any(storage.operator == f"aten.{FLASH}" for storage in padded)


@pytest.mark.parametrize(("columns", "pads"), [(16, 0), (13, 1)])
def test_rows_of_a_mask_are_padded_to_a_multiple_of_8(columns, pads):
    mode = CudaFakeMode()
    with mode, cuda_routes():
        query = torch.empty(2, 4, 16, 64, dtype=BF16, requires_grad=True)
        key = torch.empty(2, 4, columns, 64, dtype=BF16)
        recorder = Recorder(CPU, {"parameter": [query]}, fake=True)
        with recorder:
            mask = a_mask(columns)()
            functional.scaled_dot_product_attention(query, key, key, attn_mask=mask).sum().backward()
    made = [
        (storage.shape, storage.size_bytes)
        for storage in recorder.step_trace.storages
        if "pad" in str(storage.operator)
    ]
    assert made == pads * [((2, 1, 16, 16), 2 * 16 * 16 * 2)]
    assert query.grad.shape == query.shape


def test_dropout_keeps_a_bool_mask():
    with CudaFakeMode(), cuda_routes():
        x = torch.empty(32, 32, requires_grad=True)
        recorder = Recorder(CPU, {"parameter": [x]}, fake=True)
        with recorder:
            functional.dropout(x, 0.5).sum().backward()
        kept = [
            (storage.dtype, storage.size_bytes)
            for storage in recorder.step_trace.storages
            if storage.saved_from is not None
        ]
        assert kept == [("bool", 32 * 32)]
        assert functional.dropout(x, 0.5, training=False) is x
        assert functional.dropout(x, 0.0) is x
        assert functional.dropout(x, 1.0).shape == x.shape


def updated(kind, mode):
    """One update of two weights and its operators; the optimizer."""
    weights = [nn.Parameter(torch.empty(8, 8)) for _ in range(2)]
    for weight in weights:
        weight.grad = torch.empty_like(weight)
    optimizer = kind(weights, lr=0.1)
    recorder = Recorder(CPU, {"parameter": weights}, fake=True, on_host=mode.is_on_host)
    with recorder:
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    return [operator.name.rpartition(".")[2] for operator in recorder.step_trace.operators], recorder, optimizer


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_optimizers_use_foreach_as_on_a_gpu_and_only_there(kind):
    mode = CudaFakeMode()
    with mode:
        with cuda_routes():
            routed, _, _ = updated(kind, mode)
        plain, _, _ = updated(kind, mode)
    for name in ("_foreach_norm", "_foreach_mul_"):
        assert name in routed
    assert any(name.startswith(("_foreach_add_", "_foreach_addcdiv_")) for name in routed)
    assert not any("foreach" in name for name in plain)


def test_counts_of_steps_stay_in_host_memory():
    mode = CudaFakeMode()
    with mode, cuda_routes():
        _, recorder, optimizer = updated(torch.optim.AdamW, mode)
        counts = [state["step"] for state in optimizer.state.values()]
        assert len(counts) == 2
        assert all(mode.is_on_host(count.untyped_storage()._cdata) for count in counts)
        moments = [state["exp_avg"] for state in optimizer.state.values()]
        assert not any(mode.is_on_host(moment.untyped_storage()._cdata) for moment in moments)
    state = [storage for storage in recorder.step_trace.storages if storage.died is None and storage.shape == ()]
    assert state == []
    state = [storage.size_bytes for storage in recorder.step_trace.storages if storage.operator == "aten.zeros_like"]
    assert state == 4 * [8 * 8 * 4]


def test_pinned_copies_stay_in_host_memory_until_they_die():
    mode = CudaFakeMode()
    with mode:
        x = torch.empty(16)
        counter = LiveBytes(CPU, {"input": [x]}, fake=True, on_host=mode.is_on_host)
        with counter:
            pinned = torch.empty(16, pin_memory=True)
            pinned.copy_(x)
            assert counter.live_bytes == 64
            back = torch.empty_like(pinned)
            assert counter.live_bytes == 128
        assert back.shape == pinned.shape
        assert mode.is_on_host(pinned.untyped_storage()._cdata)
        del pinned
        gc.collect()
        assert mode._on_host == {}


def test_state_of_the_random_generator_is_not_gpu_memory():
    """Recomputation keeps one for every region; on a CPU it is 5 KB of the step."""
    counted = {}
    for rules in (False, True):
        mode = CudaFakeMode()
        with mode:
            counter = LiveBytes(CPU, {}, fake=True, on_host=mode.is_on_host if rules else None)
            with counter:
                kept = torch.get_rng_state()
                counted[rules] = counter.live_bytes
    assert counted == {False: kept.nbytes, True: 0}
    assert kept.nbytes > 1000
