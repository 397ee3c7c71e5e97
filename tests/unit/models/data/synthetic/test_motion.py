"""The lexicon, the hands' motion and the drawing: films run backwards are films of the partner sign."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.synthetic.dataset import render_frames
from models.data.synthetic.drawing import BLUSH, Scene, toned
from models.data.synthetic.lexicon import HANDSHAPES, LEXICON, LOCATIONS, ORIENTATIONS_DEG, Sign, pairs
from models.data.synthetic.motion import Performance, Timing, hands_at
from models.data.synthetic.plan import Clip, RenderSettings, plan_clips

DEFAULTS = {"num_classes": 20, "clips_per_class": 24, "signers": 12, "size": 128, "seed": 0, "nuisance": 1.0}


def plan(**changes: object) -> list[Clip]:
    return plan_clips(RenderSettings.model_validate({**DEFAULTS, **changes}))


def test_lexicon_has_many_distinct_signs_made_of_known_parameters() -> None:
    assert len({sign.gloss for sign in LEXICON}) == len(LEXICON) >= 100
    for sign in LEXICON:
        assert sign.handshape in HANDSHAPES
        assert sign.location in LOCATIONS
        assert sign.orientation in ORIENTATIONS_DEG


def test_twenty_classes_hold_every_kind_of_pair_and_neighbours_form_them() -> None:
    found = pairs(20)
    assert {kind: len(members) for kind, members in found.items()} == {"order": 4, "handshape": 3, "location": 3}
    assert sorted(pair for members in found.values() for pair in members) == [(a, a + 1) for a in range(0, 20, 2)]


@given(st.integers(1, len(LEXICON)))
def test_pairs_differ_in_one_parameter_and_in_the_named_one(num_classes: int) -> None:
    for kind, members in pairs(num_classes).items():
        for a, b in members:
            one, other = vars(LEXICON[a]), vars(LEXICON[b])
            assert b < num_classes
            assert [name for name in one if one[name] != other[name]] == ["movement" if kind == "order" else kind]


@pytest.mark.parametrize("sign", LEXICON, ids=lambda sign: sign.gloss)
def test_palm_stays_inside_the_frame(sign: Sign) -> None:
    performance = Performance(Timing(2, 5, 40, 5, 2), amplitude=1.0, offset=(0.0, 0.0))
    for frame in range(performance.timing.frames):
        hand, _ = hands_at(sign, performance, frame)
        assert -0.48 <= hand.x <= 0.40
        assert 0.06 <= hand.y <= 0.97


phases = st.integers(1, 30)
timings = st.builds(Timing, phases, phases, phases, phases, phases)
offsets = st.tuples(st.floats(-0.05, 0.05), st.floats(-0.05, 0.05))


@given(st.sampled_from(LEXICON), st.builds(Performance, timings, st.floats(0.5, 1.5), offsets))
def test_hands_run_backwards_are_the_partners_hands(sign: Sign, performance: Performance) -> None:
    last = performance.timing.frames - 1
    for frame in range(last + 1):
        for ours, theirs in zip(
            hands_at(sign, performance, frame),
            hands_at(sign.reversed(), performance.reversed(), last - frame),
            strict=True,
        ):
            np.testing.assert_allclose(np.hstack(ours), np.hstack(theirs), atol=1e-9)


@given(st.sampled_from(LEXICON), timings)
def test_clips_begin_and_end_at_rest_whatever_the_sign(sign: Sign, timing: Timing) -> None:
    performance = Performance(timing, amplitude=1.0, offset=(0.0, 0.0))
    reference = hands_at(LEXICON[0], performance, 0)
    assert hands_at(sign, performance, 0) == hands_at(sign, performance, timing.frames - 1) == reference


@pytest.mark.parametrize("class_id", [a for pair in pairs(20)["order"] for a in pair])
def test_frames_run_backwards_are_the_partners_frames(class_id: int) -> None:
    clip = plan()[24 * class_id + 7]
    ours, theirs = (np.stack(list(render_frames(c, 48))).astype(int) for c in (clip, clip.reversed()))
    differing = np.abs(ours[::-1] - theirs).mean(axis=(1, 2, 3))
    assert differing.max() < 0.5  # coordinates equal to 1e-9 may still round to neighbouring pixels
    assert np.abs(ours - theirs).mean() > 1.0, "the partner must not be the same film"


def test_nuisances_depend_on_the_clips_number_and_not_on_its_class() -> None:
    few, many = plan(clips_per_class=6), plan(clips_per_class=24)
    assert few[30].class_id != many[30].class_id
    for one, other in zip(few, many, strict=False):
        assert (one.scene, one.performance, one.crf) == (other.scene, other.performance, other.crf)


def test_signs_of_handshape_and_location_pairs_look_different() -> None:
    clips = plan(nuisance=0.0)
    middle = [
        list(render_frames(clips[24 * class_id], 112))[clips[0].frames // 2].astype(int) for class_id in range(20)
    ]
    for a, b in pairs(20)["handshape"] + pairs(20)["location"]:
        changed = (np.abs(middle[a] - middle[b]).max(axis=-1) > 60).sum()
        assert changed > 100, f"{LEXICON[a].gloss} and {LEXICON[b].gloss} differ in {changed} pixels of {112 * 112}"


def test_palm_has_the_signers_skin_where_the_pose_says() -> None:
    clip = next(c for c in plan(nuisance=0.0, size=128) if c.sign == Sign("five", "head", "hold"))
    frame = list(render_frames(clip, 128))[clip.frames // 2]
    x, y = round(128 * (0.5 + LOCATIONS["head"].x)), round(128 * LOCATIONS["head"].y)
    expected = np.array(toned(clip.signer.skin, BLUSH)) * clip.scene.brightness
    closest = np.abs(frame[y - 6 : y + 7, x - 6 : x + 7] - expected).max(axis=-1).min()
    assert closest <= 3


def test_without_nuisance_clips_of_a_class_are_equal_and_with_it_they_are_not() -> None:
    for nuisance, equal in ((0.0, True), (1.0, False)):
        one, other = (np.stack(list(render_frames(clip, 32))[:30]) for clip in plan(nuisance=nuisance)[:2])
        assert np.array_equal(one, other) == equal


def test_light_falls_off_linearly_towards_the_shaded_side() -> None:
    scene = Scene((0, 0, 0), (), (0, 0), (0, 0), zoom=1.0, brightness=0.8, shade=(0.4, 0.0))
    light_HW = np.asarray(scene.light(65))[..., 0] / 255
    assert light_HW[:, -1].min() == pytest.approx(0.8, abs=0.005)
    assert light_HW[:, 0].max() == pytest.approx(0.8 * 0.6, abs=0.005)
    assert light_HW[0, 32] == pytest.approx(0.8 * 0.8, abs=0.005)


def test_strongest_nuisances_stay_within_what_can_be_drawn() -> None:
    for clip in plan(nuisance=1.5, signers=400, clips_per_class=400, num_classes=2):
        colours = [clip.signer.skin, clip.signer.shirt, clip.signer.hair, clip.scene.wall]
        colours += [item[-1] for item in clip.scene.furniture]
        assert all(0 <= channel <= 255 for colour in colours for channel in colour)
        assert all(width > 0 and height > 0 for _, _, width, height, _ in clip.scene.furniture)
        assert clip.scene.light(8).getextrema()[0][0] > 0
        assert 0 <= clip.crf <= 51
