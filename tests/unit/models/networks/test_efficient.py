"""The whole recogniser: arms agree, the order of frames matters, bad input is refused, it learns."""

import pytest
import torch
from torch.nn import functional as F

from models.config import ModelConfig
from models.networks.backbone import FrameBackbone
from models.networks.efficient import build_recogniser, initial_positions
from slr_bench.errors import ConfigError

SMALL = ModelConfig(num_classes=5, base_channels=8, num_frames=4, attention_chunk_size=3, dropout=0.5)


def build(recompute="none", **changes):
    torch.manual_seed(0)
    model = build_recogniser(SMALL.model_copy(update=changes), recompute)
    if model.attention is not None:
        torch.nn.init.normal_(model.attention.project.weight, std=0.1)  # zero at birth: it would hide the attention
    return model


def step(model):
    torch.manual_seed(1)
    clips_BTCHW = torch.randint(0, 256, (3, 4, 3, 32, 32), dtype=torch.uint8)
    logits_BK = model(clips_BTCHW)
    F.cross_entropy(logits_BK, torch.tensor([0, 1, 4])).backward()
    return [logits_BK, *(parameter.grad for parameter in model.parameters()), *model.buffers()]


def test_optimized_arm_computes_what_the_baseline_computes():
    baseline = step(build(temporal_shift="plain", attention="dense").double())
    optimized = step(build("block", temporal_shift="memory_efficient", attention="chunked").double())
    for got, expected in zip(optimized, baseline, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("causal", [{}, {"causal": True, "attention": "none"}])
def test_shift_arms_of_the_whole_network_agree_bit_for_bit(causal):
    plain, efficient = (step(build(temporal_shift=kind, **causal)) for kind in ("plain", "memory_efficient"))
    assert plain[0].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(plain, efficient, strict=True))


def test_full_frame_budget_equals_the_fixed_network_bit_for_bit():
    fixed, full = step(build()), step(build(frame_budget=4))
    assert all(torch.equal(a, b) for a, b in zip(fixed, full, strict=True))


def test_backbone_gets_only_the_chosen_frames_with_their_positions():
    model = build(frame_budget=2, pyramid_levels=(1, 2)).eval()
    torch.nn.init.normal_(model.position_TD)
    selected = []
    model.backbone.register_forward_pre_hook(lambda module, given: selected.append(given[0]))
    clips_BTCHW = torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8)
    clips_BTCHW[:, 3] = 200  # all motion comes with the last frame
    with torch.no_grad():
        logits_BK = model(clips_BTCHW)
        assert torch.equal(selected[0], clips_BTCHW[:, [2, 3]])
        x_BTD = model.backbone(clips_BTCHW[:, [2, 3]]) + model.position_TD[[2, 3]]
        assert torch.equal(logits_BK, model.classify(model.pyramid(model.attention(x_BTD))))


def test_clips_can_be_freed_after_selection():
    model = build(frame_budget=2, pyramid_levels=(1, 2)).eval()
    clips_BTCHW = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        selected = model.select(clips_BTCHW)
        assert selected.clips_BTCHW.untyped_storage().nbytes() == clips_BTCHW.nbytes // 2
        assert torch.equal(model(selected), model(clips_BTCHW))


def test_merged_tokens_count_as_their_frames():
    """With two equal frames and two others, merging one pair changes nothing: its size counts for both frames."""
    clips_BTCHW = torch.rand(2, 2, 3, 32, 32).repeat_interleave(2, 1)
    changes = {"temporal_shift": "none", "attention": "dense", "pyramid_levels": (1, 2)}
    whole, merged = build(**changes).eval(), build(token_merging=1, **changes).eval()
    for model in (whole, merged):
        torch.nn.init.zeros_(model.position_TD)
        torch.nn.init.normal_(model.attention.to_qkv.weight, std=0.5)
    merged.load_state_dict(whole.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(merged(clips_BTCHW), whole(clips_BTCHW))


def test_causal_network_has_logits_at_every_frame():
    model = build(causal=True, attention="none", num_frames=3, pyramid_levels=(1, 2)).eval()
    assert not any("position" in name for name, _ in model.named_parameters())
    clips_BTCHW = torch.rand(1, 7, 3, 32, 32)
    with torch.no_grad():
        logits_BTK = model.at_every_frame(clips_BTCHW)
        assert logits_BTK.shape == (1, 7, 5)
        for t in range(7):
            torch.testing.assert_close(model(clips_BTCHW[:, : t + 1]), logits_BTK[:, t])
        later = clips_BTCHW.clone()
        later[:, 4:] = 0
        assert torch.equal(model.at_every_frame(later)[:, :4], logits_BTK[:, :4])


def test_logits_shape_and_same_parameters_in_every_arm():
    names = [name for name, _ in build().named_parameters()]
    for changes in ({"temporal_shift": "none"}, {"temporal_shift": "plain"}, {"attention": "dense"}):
        model = build(**changes)
        assert [name for name, _ in model.named_parameters()] == names
        assert model(torch.rand(2, 4, 3, 32, 32)).shape == (2, 5)
    assert not any("attention" in name for name, _ in build(attention="none").named_parameters())


@pytest.mark.parametrize("changes", [{"temporal_shift": "none", "pyramid_levels": (1,)}, {}])
def test_order_of_frames_changes_the_logits(changes):
    """Positions alone also suffice: without shift, with attention and one mean over the clip."""
    model = build(**changes).eval()
    torch.nn.init.normal_(model.attention.project.weight)  # it starts as the identity
    clips_BTCHW = torch.rand(1, 4, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(model(clips_BTCHW), model(clips_BTCHW.flip(1)), atol=1e-4)


@pytest.mark.parametrize("frames", [2, 4, 16, 64])
def test_positions_start_half_as_large_as_features_and_differ_between_frames(frames):
    position_TD = initial_positions(frames, 128)
    assert position_TD.shape == (frames, 128)
    assert position_TD.square().mean().sqrt() == pytest.approx(0.5, rel=1e-4)
    apart = torch.nn.functional.pdist(position_TD) / position_TD.norm(dim=1).mean()
    assert apart.min() > 0.5
    from_first = (position_TD - position_TD[0]).norm(dim=1)
    assert from_first[1:].min() == from_first[1]  # the neighbour is the most alike


def test_wrong_number_of_frames_is_refused():
    for model in (build().eval(), build(causal=True, attention="none").train()):
        with pytest.raises(ConfigError, match=r"6 frames but the network was built for 4; set model\.num_frames"):
            model(torch.rand(1, 6, 3, 32, 32))


def test_weights_of_the_configuration_reach_the_backbone(tmp_path):
    path = tmp_path / "weights.pt"
    torch.manual_seed(9)
    other = FrameBackbone("resnet18", 8, 4)
    torch.save(other.state_dict(), path)
    assert torch.equal(build(weights=path).backbone.conv1.weight, other.conv1.weight)


def test_learns_the_direction_of_a_movement():
    """A square moves left or right; no single frame distinguishes the two."""
    torch.manual_seed(0)
    model = build_recogniser(SMALL.model_copy(update={"num_classes": 2, "dropout": 0.0}))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def moving_squares(count):
        clips_BTCHW = torch.zeros(count, 4, 3, 32, 32, dtype=torch.uint8)
        labels_B = torch.arange(count) % 2
        for index, label in enumerate(labels_B.tolist()):
            top = int(torch.randint(0, 24, ()))
            for frame in range(4):
                left = 8 * (frame if label else 3 - frame)
                clips_BTCHW[index, frame, :, top : top + 8, left : left + 8] = 255
        return clips_BTCHW, labels_B

    for _ in range(25):
        clips_BTCHW, labels_B = moving_squares(16)
        optimizer.zero_grad()
        F.cross_entropy(model(clips_BTCHW), labels_B).backward()
        optimizer.step()
    clips_BTCHW, labels_B = moving_squares(32)
    model.eval()
    with torch.no_grad():
        assert (model(clips_BTCHW).argmax(1) == labels_B).float().mean() >= 0.9
