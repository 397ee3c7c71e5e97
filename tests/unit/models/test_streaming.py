"""A stream equals one pass however it is split, and its state does not grow."""

import copy
import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import ModelConfig
from models.networks.efficient import build_recogniser
from models.streaming import StreamingRecogniser, default_stride
from slr_bench.errors import ConfigError
from slr_bench.live_bytes import LiveBytes
from slr_bench.probes.host import rss_bytes

TINY = ModelConfig(
    num_classes=3, base_channels=8, num_frames=5, causal=True, attention="sparse", attention_window=3,
    attention_global_frames=0, attention_heads=2,
)  # fmt: skip


def build(**changes):
    """Build a network whose weights hide nothing: neither attention nor statistics are the identity."""
    torch.manual_seed(0)
    model = build_recogniser(TINY.model_copy(update=changes))
    if model.attention is not None:
        torch.nn.init.normal_(model.attention.project.weight, std=0.1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def video(frames, dtype=torch.float64):
    return torch.rand(frames, 3, 32, 32, dtype=dtype)


@pytest.fixture(scope="module")
def exact():
    return build().double()


@settings(max_examples=25, deadline=None)
@given(pieces=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_stream_equals_one_pass_however_it_is_split(exact, pieces):
    frames_TCHW = video(sum(pieces))
    with torch.no_grad():
        offline_TK = exact.at_every_frame(frames_TCHW[None])[0]
    stream = StreamingRecogniser(exact)
    online_TK = torch.cat([stream.push(piece) for piece in frames_TCHW.split(pieces)])
    torch.testing.assert_close(online_TK, offline_TK, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": "none"}, {"temporal_shift": "plain"}, {"temporal_shift": "none"}, {"num_frames": 1},
        {"pyramid_levels": (1,), "attention_window": 8},
    ],
)  # fmt: skip
def test_stream_frame_by_frame_equals_one_pass_in_fp32(changes):
    if changes.get("num_frames") == 1:
        changes = changes | {"pyramid_levels": (1,)}
    model = build(**changes)
    frames_TCHW = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8)
    stream = StreamingRecogniser(model)
    with torch.no_grad():
        online_TK = torch.cat([stream.push(frame[None]) for frame in frames_TCHW])
        torch.testing.assert_close(online_TK, model.at_every_frame(frames_TCHW[None])[0], rtol=1e-5, atol=5e-6)
        assert torch.equal(model(frames_TCHW[None]), model(frames_TCHW[None]))  # nothing of the stream stays in it


def test_every_frame_history_is_needed(exact):
    """Clearing any one of them changes the logits, so none of the equalities above is trivial."""
    frames_TCHW = video(8)
    whole = StreamingRecogniser(exact)
    expected = torch.cat([whole.push(piece) for piece in frames_TCHW.split(4)])
    for index in range(len(whole.state())):
        stream = StreamingRecogniser(exact)
        stream.push(frames_TCHW[:4])
        stream.state()[index].zero_()
        assert not torch.allclose(stream.push(frames_TCHW[4:]), expected[4:], rtol=1e-6)


def test_reset_starts_another_video(exact):
    first_TCHW, second_TCHW = video(6), video(4)
    stream, fresh = StreamingRecogniser(exact), StreamingRecogniser(exact)
    stream.push(first_TCHW)
    stream.reset()
    assert torch.equal(stream.push(second_TCHW), fresh.push(second_TCHW))


def test_two_streams_of_one_network_do_not_mix(exact):
    one_TCHW, other_TCHW = video(6), video(6)
    one, other, alone = (StreamingRecogniser(exact) for _ in range(3))
    got = []
    for t in range(6):
        got.append(one.push(one_TCHW[t : t + 1]))
        other.push(other_TCHW[t : t + 1])
    torch.testing.assert_close(torch.cat(got), torch.cat([alone.push(f[None]) for f in one_TCHW]), rtol=0, atol=0)


def test_state_has_the_size_of_the_closed_form():
    """Frames of 32 x 32 need an eighth of each block's input (C x H x W), W keys and values, T - 1 fp32 features."""
    stream = StreamingRecogniser(build())
    stream.push(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    inputs = [8 * 64, 8 * 64, 8 * 64, 16 * 16, 16 * 16, 32 * 4, 32 * 4, 64]
    numbers = sum(inputs) // 8 + 2 * 3 * 64 + (5 - 1) * 64
    assert sum(tensor.untyped_storage().nbytes() for tensor in stream.state()) == 4 * numbers


def test_network_that_is_not_causal_is_refused():
    model = build_recogniser(ModelConfig(base_channels=8, num_frames=4))
    with pytest.raises(ConfigError, match=r"model\.causal: true: .* later frames.*--set model\.causal=true"):
        StreamingRecogniser(model)
    with pytest.raises(ConfigError, match="causal"):
        StreamingRecogniser(torch.nn.Linear(1, 1))


def test_frames_of_another_size_are_refused(exact):
    stream = StreamingRecogniser(exact)
    stream.push(video(1))
    with pytest.raises(ConfigError, match=r"\[3, 40, 40\] after frames of \[3, 32, 32\]"):
        stream.push(torch.rand(1, 3, 40, 40, dtype=torch.float64))


def test_empty_push_is_refused_and_changes_nothing(exact):
    stream, fresh = StreamingRecogniser(exact), StreamingRecogniser(exact)
    with pytest.raises(ConfigError, match="push needs at least one frame"):
        stream.push(torch.rand(0, 3, 40, 40, dtype=torch.float64))
    frames_TCHW = video(2)
    assert torch.equal(stream.push(frames_TCHW), fresh.push(frames_TCHW))


def test_stream_runs_the_network_in_evaluation_mode():
    model = copy.deepcopy(build()).train()
    StreamingRecogniser(model)
    assert not model.training


@pytest.mark.parametrize(
    ("fps", "num_frames", "stride"), [(25.0, 16, 4), (30.0, 16, 4), (None, 16, 4), (25.0, 64, 1), (10.0, 64, 1)]
)
def test_default_stride_spreads_the_frames_over_a_sign(fps, num_frames, stride):
    assert default_stride(fps, num_frames) == stride


def traced_push(stream, frames_TCHW):
    """Return the bytes alive after a push and its peak, above what was alive before it."""
    known = [*stream.state(), frames_TCHW, *stream.model.parameters(), *stream.model.buffers()]
    with LiveBytes(torch.device("cpu"), {"known": known}) as live:
        start_bytes = live.live_bytes
        stream.push(frames_TCHW)
        gc.collect()
        return live.live_bytes - start_bytes, live.peak_bytes


def stream_on(frames, model, piece=100):
    """Push ``frames`` random frames; traced bytes, the state's addresses and RSS after a tenth and at the end."""
    stream = StreamingRecogniser(model)
    pieces = torch.randint(0, 256, (4, piece, 3, 32, 32), dtype=torch.uint8)
    notes = []
    for number in range(frames // piece):
        stream.push(pieces[number % 4])
        if number + 1 in (frames // piece // 10, frames // piece):
            addresses = [tensor.data_ptr() for tensor in stream.state()]
            notes.append((traced_push(stream, pieces[0]), addresses))
            gc.collect()
            notes[-1] += (rss_bytes(),)
    return notes


def test_memory_is_constant_over_2000_frames():
    (early, early_at, _), (late, late_at, _) = stream_on(2000, build())
    assert early == late
    assert early[0] == 0  # the answer was dropped, and nothing else stays
    assert early_at == late_at


@pytest.mark.slow
def test_memory_is_constant_over_100_000_frames():
    """The process grows by less than a byte per frame too."""
    (early, early_at, early_rss), (late, late_at, late_rss) = stream_on(100_000, build())
    assert (early, early_at) == (late, late_at)
    assert late_rss - early_rss < 100_000
