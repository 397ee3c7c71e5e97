"""Decides every clip of a synthetic data set before anything is drawn: sign, signer, split, timing and nuisances.

The nuisances of a clip come from a generator seeded by (seed, clip number) and have the same distribution for every
class, so that only the sign itself distinguishes two classes. Everything that changes in time is equally likely run
backwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from models.config.model import Count, Frozen
from models.data.synthetic.drawing import Scene, Signer, from_hsv
from models.data.synthetic.lexicon import LEXICON, Sign
from models.data.synthetic.motion import Performance, Timing

Split = Literal["train", "val", "test"]

FPS = 25
HELD_OUT = 1 / 6

# Strengths of the nuisances at ``nuisance: 1``, each the half-width of a uniform range around the middle.
BUILD = 0.14  # part of shoulders, head and hands
AMPLITUDE = 0.2  # part of the movement's size
PLACE = 0.03  # frame heights off the location
REST_FRAMES, WAY_FRAMES, STROKE_FRAMES = 3, 2, 5  # frames of onset and outro, of approach and retreat, of the stroke
SHIFT, DRIFT, ZOOM = 0.05, 0.02, 0.1  # frame heights, frame heights, factor
BRIGHTNESS, SHADE = 0.15, 0.3  # part of the light, over the clip and across the picture
COLOUR = 0.5  # part of the whole range of hues and tones
CRF = 6  # steps of x264's constant rate factor
_MIDDLE_REST, _MIDDLE_WAY, _MIDDLE_STROKE = 4, 7, 24
_MIDDLE_CRF = 25
_FURNITURE = 4


class RenderSettings(Frozen):
    """Settings of a rendering. Equal settings and an equal renderer version give equal bytes."""

    num_classes: Annotated[Count, Field(le=len(LEXICON))]
    """Signs, the first of the lexicon."""
    clips_per_class: Annotated[int, Field(strict=True, ge=3, le=800)]
    """Clips of every sign; at least one each for train, val and test; at most 800, as video ids have five digits."""
    signers: Annotated[int, Field(strict=True, ge=3, le=1000)]
    """People; train, val and test have different ones."""
    size: Annotated[int, Field(strict=True, ge=32, le=1024, multiple_of=2)]
    """Height and width of the videos, pixels; even, because H.264 halves the colour's resolution."""
    seed: Annotated[int, Field(strict=True, ge=0)]
    """Seed of everything drawn by lot."""
    nuisance: Annotated[float, Field(ge=0.0, le=1.5)]
    """Strength of what is not the sign: build, colours, background, speed, camera, light, compression; 0 none."""
    held_out: Annotated[float, Field(gt=0.0, le=0.45)] = HELD_OUT
    """Part of the signers, and of every class's clips, in val; the same again in test."""


@dataclass(frozen=True)
class Clip:
    """One video, decided in full."""

    number: int
    class_id: int
    sign: Sign
    split: Split
    signer_id: int
    signer: Signer
    scene: Scene
    performance: Performance
    crf: int

    @property
    def video_id(self) -> str:
        """Five digits, the file's name."""
        return f"{self.number:05d}"

    @property
    def frames(self) -> int:
        """Frames of the video."""
        return self.performance.timing.frames

    def reversed(self) -> Clip:
        """The same clip run backwards: a clip of the reversed sign."""
        scene = replace(self.scene, drift=(-self.scene.drift[0], -self.scene.drift[1]))
        return replace(self, sign=self.sign.reversed(), performance=self.performance.reversed(), scene=scene)


def plan_clips(settings: RenderSettings) -> list[Clip]:
    """Every clip of the data set, class by class, within a class train, val, test."""
    people = [_signer(_Lots(settings, 0, person)) for person in range(settings.signers)]
    clips: list[Clip] = []
    for class_id, sign in enumerate(LEXICON[: settings.num_classes]):
        for split, signer_id in _castings(settings, class_id):
            lots = _Lots(settings, 1, len(clips))
            scene, performance = _scene(lots), _performance(lots)
            crf = round(lots.about(_MIDDLE_CRF, CRF))
            clips.append(Clip(len(clips), class_id, sign, split, signer_id, people[signer_id], scene, performance, crf))
    return clips


def _castings(settings: RenderSettings, class_id: int) -> Iterator[tuple[Split, int]]:
    """Split and signer of each clip of a class; where clips are fewer than signers, classes take turns with them."""
    held_out_people, held_out_clips = (
        min(max(1, round(number * settings.held_out)), (number - 1) // 2)  # one at least stays for training
        for number in (settings.signers, settings.clips_per_class)
    )
    train_people = settings.signers - 2 * held_out_people
    parts: tuple[tuple[Split, int, int, int], ...] = (
        ("train", 0, train_people, settings.clips_per_class - 2 * held_out_clips),
        ("val", train_people, held_out_people, held_out_clips),
        ("test", train_people + held_out_people, held_out_people, held_out_clips),
    )
    for split, first_person, people, clips in parts:
        for turn in range(clips):
            yield split, first_person + (class_id * clips + turn) % people


class _Lots:
    """The random draws of one person or one clip, as strong as ``settings.nuisance`` says."""

    def __init__(self, settings: RenderSettings, *stream: int) -> None:
        self._random = np.random.default_rng([settings.seed, *stream])
        self._nuisance = settings.nuisance

    def about(self, middle: float, half_width: float) -> float:
        """Uniform around ``middle``."""
        return middle + half_width * self._nuisance * self._random.uniform(-1, 1)

    def colour(self, hue: float, saturation: tuple[float, float], value: tuple[float, float]) -> tuple[int, int, int]:
        """Any hue around ``hue``; saturation and value are (middle, half-width)."""
        return from_hsv(self.about(hue, COLOUR), self.about(*saturation), self.about(*value))


def _signer(lots: _Lots) -> Signer:
    tone = lots.about(0.5, COLOUR)  # dark to light skin; shirts and walls stay darker than either
    skin = from_hsv(0.065 + 0.01 * tone, 0.46 - 0.24 * tone, 0.76 + 0.19 * tone)
    return Signer(
        shoulder=lots.about(0.22, 0.22 * BUILD),
        head_radius=lots.about(0.125, 0.125 * BUILD),
        hand_scale=lots.about(1.0, BUILD),
        skin=skin,
        shirt=lots.colour(0.6, (0.5, 0.25), (0.24, 0.09)),
        hair=from_hsv(lots.about(0.07, 0.03), 0.5, lots.about(0.25, 0.16)),
        hair_length=lots.about(0.05, 0.15),
    )


def _scene(lots: _Lots) -> Scene:
    wall = lots.colour(0.6, (0.25, 0.15), (0.36, 0.09))
    furniture = tuple(
        (
            lots.about(-0.15, 0.6),
            lots.about(0.3, 0.5),
            lots.about(0.25, 0.15),
            lots.about(0.4, 0.25),
            lots.colour(0.6, (0.25, 0.15), (0.36, 0.09)),
        )
        for _ in range(_FURNITURE)
    )
    return Scene(
        wall=wall,
        furniture=furniture,
        shift=(lots.about(0, SHIFT), lots.about(0, SHIFT)),
        drift=(lots.about(0, DRIFT), lots.about(0, DRIFT)),
        zoom=lots.about(1.0, ZOOM),
        brightness=lots.about(1 - BRIGHTNESS, BRIGHTNESS),
        shade=(lots.about(0, SHADE), lots.about(0, SHADE)),
    )


def _performance(lots: _Lots) -> Performance:
    """Onset and outro, approach and retreat are drawn alike, so that time's direction shows in the stroke only."""
    rest, way, stroke = (_MIDDLE_REST, REST_FRAMES), (_MIDDLE_WAY, WAY_FRAMES), (_MIDDLE_STROKE, STROKE_FRAMES)
    phases = [max(1, round(lots.about(*phase))) for phase in (rest, way, stroke, way, rest)]
    offset = (lots.about(0, PLACE), lots.about(0, PLACE))
    return Performance(Timing(*phases), amplitude=lots.about(1.0, AMPLITUDE), offset=offset)
