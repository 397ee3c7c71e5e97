"""Positions of the hands at every moment of a sign.

A clip runs rest, approach, stroke, retreat, rest. Every law of motion here is symmetric in time. A clip of a sign that
is run backwards is therefore exactly a clip of the reversed sign: only the order of the frames differs.

Coordinates: x from the body's middle (negative is the dominant hand's side, left in the picture), y down from the top,
both in parts of the frame's height.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from models.data.synthetic.lexicon import HANDSHAPES, LOCATIONS, ORIENTATIONS_DEG, Sign

STROKE_REACH = 0.15
"""Half the way of a straight movement."""
CIRCLE_RADIUS = 0.12
WAVE_REACH = 0.055
WAVES = 3
TWIST_DEG = 90.0
TWO_HANDED_X = -0.21
"""Two-handed signs keep the palms at least this far from the middle, so that the hands do not hide each other."""
_REST_EXTENSION = 0.35


class HandPose(NamedTuple):
    """One hand as the drawing needs it."""

    x: float
    y: float
    angle_deg: float
    """Direction of the fingers: 90 up, 0 towards the other hand's side, -90 down."""
    extension: tuple[float, ...]
    spread_deg: float

    def towards(self, other: HandPose, part: float) -> HandPose:
        """The pose ``part`` (0 to 1) of the way to ``other``."""
        extension = tuple(_mix(a, b, part) for a, b in zip(self.extension, other.extension, strict=True))
        x, y, angle_deg = (_mix(a, b, part) for a, b in zip(self[:3], other[:3], strict=True))
        return HandPose(x, y, angle_deg, extension, _mix(self.spread_deg, other.spread_deg, part))


REST = HandPose(-0.27, 0.95, -80.0, (_REST_EXTENSION,) * 5, 0.0)


@dataclass(frozen=True)
class Timing:
    """Frames of each phase of a clip."""

    onset: int
    approach: int
    stroke: int
    retreat: int
    outro: int

    @property
    def frames(self) -> int:
        """Frames of the clip: the phases' steps, and the frame they start from."""
        return 1 + self.onset + self.approach + self.stroke + self.retreat + self.outro

    def reversed(self) -> Timing:
        """The same clip run backwards."""
        return Timing(self.outro, self.retreat, self.stroke, self.approach, self.onset)

    def progress_at(self, frame: int) -> tuple[float, float]:
        """``(presence, progress)``: 0 at rest to 1 signing, and the part of the stroke that is done."""
        stroke_start = self.onset + self.approach
        coming = (frame - self.onset) / self.approach
        leaving = (self.frames - 1 - self.outro - frame) / self.retreat
        return _ease(min(coming, leaving)), _clamp((frame - stroke_start) / self.stroke)


@dataclass(frozen=True)
class Performance:
    """The performance of a sign in one clip."""

    timing: Timing
    amplitude: float
    """Factor on the size of the movement."""
    offset: tuple[float, float]
    """Offset of the sign from its location."""

    def reversed(self) -> Performance:
        """The same performance run backwards."""
        return Performance(self.timing.reversed(), self.amplitude, self.offset)


def hands_at(sign: Sign, performance: Performance, frame: int) -> tuple[HandPose, HandPose]:
    """Dominant and other hand at ``frame``; the other one's pose is given as if seen in a mirror."""
    presence, progress = performance.timing.progress_at(frame)
    hand = REST.towards(_stroke(sign, performance, progress), presence)
    return hand, hand if sign.hands == 2 else REST


def _stroke(sign: Sign, performance: Performance, progress: float) -> HandPose:
    """The signing hand when ``progress`` (0 to 1) of the stroke is done."""
    shape, place = HANDSHAPES[sign.handshape], LOCATIONS[sign.location]
    x, y, angle_deg = place.x, place.y, ORIENTATIONS_DEG[sign.orientation]
    extension: tuple[float, ...] = shape.extension
    eased, wave = _ease(progress), -math.cos(2 * math.pi * WAVES * progress)
    dx = dy = 0.0
    match sign.movement:
        case "up" | "down":
            dy = STROKE_REACH * _signed(eased, sign.movement == "down")
        case "outward" | "inward":
            dx = STROKE_REACH * _signed(eased, sign.movement == "inward")
        case "circle_cw" | "circle_ccw":
            turn = 2 * math.pi * (progress if sign.movement == "circle_cw" else 1 - progress)
            dx, dy = -CIRCLE_RADIUS * math.sin(turn), CIRCLE_RADIUS * math.cos(turn)
        case "then_belly" | "belly_first":
            part = _ease(2 * progress - 0.5)  # holds at both ends: two touches, not a sweep
            belly, part = LOCATIONS["belly"], part if sign.movement == "then_belly" else 1 - part
            x, y = _mix(x, belly.x, part), _mix(y, belly.y, part)
        case "opening" | "closing":
            open_part = eased if sign.movement == "opening" else 1 - eased
            extension = tuple(open_part * part for part in extension)
        case "twist_in" | "twist_out":
            angle_deg -= TWIST_DEG * (eased if sign.movement == "twist_in" else 1 - eased)
        case "shake":
            dx = WAVE_REACH * wave
        case "nod":
            dy = WAVE_REACH * wave
    x += dx * performance.amplitude
    y += dy * performance.amplitude
    if sign.hands == 2:
        x = min(x, TWO_HANDED_X + dx * performance.amplitude)
    return HandPose(x + performance.offset[0], y + performance.offset[1], angle_deg, extension, shape.spread_deg)


def _signed(part: float, rising: bool) -> float:
    """0..1 as -1..1, or falling from 1 to -1."""
    return 2 * part - 1 if rising else 1 - 2 * part


def _mix(a: float, b: float, part: float) -> float:
    return a + (b - a) * part


def _clamp(part: float) -> float:
    return min(max(part, 0.0), 1.0)


def _ease(part: float) -> float:
    """0 to 1 with soft ends, equal to itself run backwards (smoothstep); clamped outside."""
    part = _clamp(part)
    return part * part * (3 - 2 * part)
