"""The rendered signs: every class is a combination of the parameters that sign phonology uses.

Handshape, location, movement, orientation and number of hands (Stokoe 1960; Battison 1978 for orientation and hands).
The lexicon is one fixed list and a data set of N classes takes its first N, so class 7 is the same sign everywhere.
Signs come as neighbours that differ in one parameter only: in the *order* of a movement (the same frames backwards),
in the handshape, or in the location. Lengths are parts of the frame's height.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple

PairKind = Literal["order", "handshape", "location"]


class Handshape(NamedTuple):
    """The shape of a hand."""

    extension: tuple[float, float, float, float, float]
    """Thumb, index, middle, ring and little finger: 0 curled into the palm, 1 stretched."""
    spread_deg: float
    """Angle between neighbouring fingers."""


class Location(NamedTuple):
    """Position of the palm: x from the body's middle (negative is the dominant hand's side), y down the frame."""

    x: float
    y: float


HANDSHAPES = {
    "five": Handshape((1, 1, 1, 1, 1), 16),
    "fist": Handshape((0, 0, 0, 0, 0), 0),
    "point": Handshape((0, 1, 0, 0, 0), 0),
    "vee": Handshape((0, 1, 1, 0, 0), 24),
    "flat": Handshape((0, 1, 1, 1, 1), 0),
    "wye": Handshape((1, 0, 0, 0, 1), 16),
    "ell": Handshape((1, 1, 0, 0, 0), 0),
    "horns": Handshape((0, 1, 0, 0, 1), 10),
}
LOCATIONS = {
    "head": Location(-0.22, 0.22),
    "chin": Location(-0.02, 0.40),
    "side": Location(-0.31, 0.54),
    "chest": Location(-0.08, 0.62),
    "far_shoulder": Location(0.20, 0.54),
    "belly": Location(-0.08, 0.84),
}
ORIENTATIONS_DEG = {"upright": 90.0, "inward": 0.0}
"""Direction of the fingers in degrees: 90 up, 0 towards the other hand's side."""

STEADY_MOVEMENTS = ("hold", "shake", "nod")
"""Movements that look the same backwards."""

ROOM: dict[tuple[str, str], tuple[str, ...]] = {
    ("up", "down"): ("chin", "side", "chest", "far_shoulder"),
    ("outward", "inward"): ("chin", "chest", "belly"),
    ("circle_cw", "circle_ccw"): tuple(LOCATIONS),
    ("then_belly", "belly_first"): ("head", "chin", "far_shoulder"),
    ("opening", "closing"): tuple(LOCATIONS),
    ("twist_in", "twist_out"): tuple(LOCATIONS),
}
"""Movements that are each other's reverse, with the locations that leave room for them inside the frame."""

_REVERSE = {name: other for pair in ROOM for name, other in (pair, pair[::-1])}
_MAX_CLASSES = 120


@dataclass(frozen=True)
class Sign:
    """One class. Every parameter is a name of the tables above."""

    handshape: str
    location: str
    movement: str
    orientation: str = "upright"
    hands: int = 1

    @property
    def gloss(self) -> str:
        """The parameters as one word, unique in the lexicon."""
        return f"{self.handshape}-{self.location}-{self.movement}-{self.orientation}-{self.hands}"

    def reversed(self) -> Sign:
        """The sign that a film of this one run backwards shows; itself for a steady movement."""
        return replace(self, movement=_REVERSE.get(self.movement, self.movement))


_CORE = (
    Sign("five", "chest", "up", hands=2),
    Sign("five", "chest", "down", hands=2),
    Sign("five", "head", "hold"),
    Sign("fist", "head", "hold"),
    Sign("point", "chin", "nod", "inward"),
    Sign("point", "belly", "nod", "inward"),
    Sign("flat", "chest", "outward"),
    Sign("flat", "chest", "inward"),
    Sign("wye", "side", "shake"),
    Sign("point", "side", "shake"),
    Sign("fist", "chin", "shake", hands=2),
    Sign("fist", "belly", "shake", hands=2),
    Sign("point", "side", "circle_cw"),
    Sign("point", "side", "circle_ccw"),
    Sign("flat", "chest", "hold", "inward", 2),
    Sign("vee", "chest", "hold", "inward", 2),
    Sign("five", "far_shoulder", "nod"),
    Sign("five", "belly", "nod"),
    Sign("vee", "head", "then_belly"),
    Sign("vee", "head", "belly_first"),
)


def _further_pairs() -> Iterator[tuple[Sign, Sign]]:
    """Order, handshape and location pairs in turn, every parameter moving at a pace of its own."""
    movement_pairs, shapes, places = tuple(ROOM), tuple(HANDSHAPES), tuple(LOCATIONS)
    for step in itertools.count():
        movements = movement_pairs[step % len(movement_pairs)]
        room = ROOM[movements]
        shape, other_shape = shapes[step % 8], shapes[(step + 3) % 8]
        place, other_place = places[step // 2 % 6], places[(step // 2 + 3) % 6]
        steady = STEADY_MOVEMENTS[step // 3 % 3]
        manner = ("upright", 1 + step // 4 % 2) if step % 3 else ("inward", 1 + step // 2 % 2)
        first = Sign(shape, room[step // 6 % len(room)], movements[0], *manner)
        yield first, first.reversed()
        first = Sign(shape, place, steady, *manner)
        yield first, replace(first, handshape=other_shape)
        yield first, replace(first, location=other_place)


def _is_visible(sign: Sign) -> bool:
    """False where a parameter could not be seen: a fist neither closes nor shows its turn, and two hands cannot both
    be at the far shoulder."""
    fist_in_place = sign.handshape == "fist" and sign.movement in ("opening", "closing", "twist_in", "twist_out")
    return not fist_in_place and not (sign.location == "far_shoulder" and sign.hands == 2)


def _lexicon() -> tuple[Sign, ...]:
    signs = list(_CORE)
    for pair in _further_pairs():
        if all(_is_visible(sign) and sign not in signs for sign in pair):
            signs += pair
        if len(signs) >= _MAX_CLASSES:
            return tuple(signs)
    raise AssertionError("the stream of pairs has no end")


LEXICON: tuple[Sign, ...] = _lexicon()
"""All classes in their fixed order; a data set of N classes has the first N."""


def pairs(num_classes: int) -> dict[PairKind, list[tuple[int, int]]]:
    """Pairs of class ids below ``num_classes`` that differ in one respect only, found from the parameters.

    ``order``: one is the other's film run backwards; ``handshape``, ``location``: all else is equal.
    """
    found: dict[PairKind, list[tuple[int, int]]] = {"order": [], "handshape": [], "location": []}
    for (a, sign_a), (b, sign_b) in itertools.combinations(enumerate(LEXICON[:num_classes]), 2):
        differing = [f.name for f in fields(Sign) if getattr(sign_a, f.name) != getattr(sign_b, f.name)]
        if sign_a.reversed() == sign_b:
            found["order"].append((a, b))
        elif differing == ["handshape"]:
            found["handshape"].append((a, b))
        elif differing == ["location"]:
            found["location"].append((a, b))
    return found
