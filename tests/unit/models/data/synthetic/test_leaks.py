"""Features other than motion carry no information about order-only pairs."""

from __future__ import annotations

import io
import math

import av
import numpy as np
import pytest

from models.data.synthetic.dataset import encode_clip
from models.data.synthetic.lexicon import pairs
from models.data.synthetic.plan import RenderSettings, plan_clips

SETTINGS = RenderSettings(num_classes=20, clips_per_class=24, signers=12, size=64, seed=0, nuisance=1.0)


def binomial_bound(trials: int) -> int:
    """The most successes that fair guessing exceeds with a probability below 0.1 %."""
    tail, successes = 0.0, trials
    while tail + math.comb(trials, successes) / 2**trials < 1e-3:
        tail += math.comb(trials, successes) / 2**trials
        successes -= 1
    return successes


def test_binomial_bound_of_ten_coins() -> None:
    assert binomial_bound(10) == 9  # P(10) = 1/1024 < 0.1 %, P(>= 9) = 11/1024


class OrderClips:
    """Clips of the order-only classes, encoded and decoded again, as features."""

    def __init__(self) -> None:
        members = [class_id for pair in pairs(20)["order"] for class_id in pair]
        self.clips = [clip for clip in plan_clips(SETTINGS) if clip.class_id in members]
        random = np.random.default_rng(0)
        names = ("histogram", "first frame", "middle frame", "last frame", "random frame", "bytes", "length", "motion")
        self.features: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for clip in self.clips:
            film = encode_clip(clip, SETTINGS.size)
            with av.open(io.BytesIO(film)) as container:
                rgb_THWC = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
            values = self._describe(rgb_THWC, random.integers(len(rgb_THWC)), len(film))
            for name, value in zip(names, values, strict=True):
                self.features[name].append(np.ravel(value).astype(float))

    @staticmethod
    def _describe(rgb_THWC: np.ndarray, any_frame: int, film_bytes: int) -> tuple[object, ...]:
        frames, size = rgb_THWC.shape[:2]
        bins = np.stack([np.bincount(rgb_THWC[..., c].ravel() // 16, minlength=16) for c in range(3)]) / rgb_THWC.size
        small = rgb_THWC.reshape(frames, 16, size // 16, 16, size // 16, 3).mean(axis=(2, 4))
        gray = small.mean(axis=-1)
        motion = gray[frames // 2 :].mean(axis=0) - gray[: frames // 2].mean(axis=0)
        return bins, small[0], small[frames // 2], small[-1], small[any_frame], film_bytes, frames, motion

    def correct(self, feature: str, nearest: int | None) -> tuple[int, int]:
        """Return (right, all) over all pairs, classifying each signer's clips from the clips of the other signers.

        ``nearest`` neighbours vote, or with ``None`` the nearer class mean wins.
        """
        right = total = 0
        labels = np.array([clip.class_id for clip in self.clips])
        signers = np.array([clip.signer_id for clip in self.clips])
        x_ND = np.stack(self.features[feature])
        for a, b in pairs(20)["order"]:
            for signer in np.unique(signers):
                known = np.isin(labels, (a, b)) & (signers != signer)
                for one in np.flatnonzero(np.isin(labels, (a, b)) & (signers == signer)):
                    distance = np.linalg.norm(x_ND[known] - x_ND[one], axis=1)
                    if nearest is None:
                        means = [x_ND[known & (labels == k)].mean(axis=0) for k in (a, b)]
                        guess = (a, b)[int(np.argmin([np.linalg.norm(mean - x_ND[one]) for mean in means]))]
                    else:
                        votes = labels[known][np.argsort(distance, kind="stable")[:nearest]]
                        guess = a if (votes == a).sum() * 2 > nearest else b
                    right, total = right + int(guess == labels[one]), total + 1
        return right, total


@pytest.fixture(scope="session")
def order_clips() -> OrderClips:
    return OrderClips()


@pytest.mark.parametrize("nearest", [None, 5])
@pytest.mark.parametrize(
    "feature", ["histogram", "first frame", "middle frame", "last frame", "random frame", "bytes", "length"]
)
def test_order_pairs_are_guessed_no_better_than_chance(
    order_clips: OrderClips, feature: str, nearest: int | None
) -> None:
    right, total = order_clips.correct(feature, nearest)
    assert right <= binomial_bound(total), f"{feature} distinguishes order-only pairs: {right} of {total}"


@pytest.mark.parametrize("nearest", [None, 5])
def test_order_pairs_are_distinguished_by_motion(order_clips: OrderClips, nearest: int | None) -> None:
    right, total = order_clips.correct("motion", nearest)
    assert right >= 0.9 * total
    assert right > binomial_bound(total)
