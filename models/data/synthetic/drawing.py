"""Draws one frame of a signer: torso, head, jointed arms, hands with five fingers, seen from the waist up.

Shapes are drawn ``SUPERSAMPLE`` times larger and averaged down, which smooths the edges of fingers two pixels wide.
Hands are larger than life (about a fifth of the frame's height), so that handshapes survive 112 x 112 pixels.
Lengths are parts of the frame's height; colours are 8-bit RGB.
"""

from __future__ import annotations

import colorsys
import itertools
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from models.data.synthetic.motion import HandPose

Point = tuple[float, float]
Colour = tuple[int, int, int]

SUPERSAMPLE = 3
OUTLINE = 0.007
SHOULDER_Y, HEAD_Y, SHIRT_BOTTOM_Y = 0.49, 0.27, 1.3
ELBOW_DROP, ELBOW_OUT, ELBOW_FOLLOWS = 0.27, 0.09, 0.25
ARM_WIDTH = 0.085
PALM_WIDTH, PALM_LENGTH = 0.088, 0.050
FINGER_WIDTH, FINGER_LENGTHS = 0.027, (0.080, 0.114, 0.125, 0.116, 0.094)
CURLED_LENGTH = 0.016
"""Visible length of a finger that is curled into the palm."""
THUMB_DEG, THUMB_CURLED_DEG = 52.0, -60.0
"""The thumb's angle off the fingers when stretched, and when folded over the palm."""
BLUSH = 1.08
"""Hands are a little brighter than the face, being nearer to the camera's light."""


@dataclass(frozen=True)
class Signer:
    """A person: build and colours, the same in all their clips."""

    shoulder: float
    """Half the width of the shoulders."""
    head_radius: float
    hand_scale: float
    skin: Colour
    shirt: Colour
    hair: Colour
    hair_length: float
    """Length of the hair beside the face."""


@dataclass(frozen=True)
class Scene:
    """Background, camera and light of one clip."""

    wall: Colour
    furniture: tuple[tuple[float, float, float, float, Colour], ...]
    """Rectangles behind the signer: left, top, width, height, colour."""
    shift: Point
    drift: Point
    """The camera moves from minus to plus this during the clip."""
    zoom: float
    brightness: float
    shade: Point
    """Light lost at the picture's toned side, across and down; the sign says which side."""

    def light(self, size: int) -> Image.Image:
        """The factor on every pixel as an image of ``size`` x ``size``: 255 is full light."""
        ramp = np.linspace(-0.5, 0.5, size)
        loss = np.abs(self.shade).sum() / 2 - self.shade[0] * ramp[None, :] - self.shade[1] * ramp[:, None]
        factor = np.clip(self.brightness * (1 - loss), 0, 1)
        return Image.fromarray(np.repeat((factor * 255).astype(np.uint8)[..., None], 3, axis=2))


class Canvas:
    """Draws in body coordinates (x from the middle, y from the top) through the scene's camera."""

    def __init__(self, scene: Scene, size: int, drift_part: float) -> None:
        self.pixels = size * SUPERSAMPLE
        self.image = Image.new("RGB", (self.pixels, self.pixels), scene.wall)
        self._draw = ImageDraw.Draw(self.image)
        self._scale = self.pixels * scene.zoom
        self._x = self.pixels * (0.5 + scene.shift[0] + drift_part * scene.drift[0])
        self._y = self.pixels * (0.5 + scene.shift[1] + drift_part * scene.drift[1]) - 0.5 * self._scale

    def _to_pixels(self, x: float, y: float) -> Point:
        return self._x + x * self._scale, self._y + y * self._scale

    def ellipse(self, centre: Point, radius_x: float, radius_y: float, fill: Colour) -> None:
        """A filled ellipse with upright axes."""
        (x, y), rx, ry = self._to_pixels(*centre), radius_x * self._scale, radius_y * self._scale
        self._draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill)

    def rectangle(self, left: float, top: float, width: float, height: float, fill: Colour) -> None:
        """A filled rectangle."""
        self._draw.rectangle((*self._to_pixels(left, top), *self._to_pixels(left + width, top + height)), fill)

    def polygon(self, points: list[Point], fill: Colour) -> None:
        """A filled polygon."""
        self._draw.polygon([self._to_pixels(*point) for point in points], fill)

    def limb(self, points: list[Point], width: float, fill: Colour) -> None:
        """A bent tube with round ends and a dark outline, which parts it from what lies under it."""
        for colour, thickness in ((toned(fill, 0.45), width + 2 * OUTLINE), (fill, width)):
            for start, end in itertools.pairwise(points):
                line = (*self._to_pixels(*start), *self._to_pixels(*end))
                self._draw.line(line, colour, max(1, round(thickness * self._scale)))
            for point in points:
                self.ellipse(point, thickness / 2, thickness / 2, colour)


def draw_frame(
    signer: Signer, scene: Scene, light: Image.Image, hands: tuple[HandPose, HandPose], drift_part: float
) -> Image.Image:
    """One RGB frame of the size of ``light`` (``scene.light``); ``drift_part`` goes from -1 to 1 during the clip."""
    canvas = Canvas(scene, light.width, drift_part)
    for item in scene.furniture:
        canvas.rectangle(*item)
    _draw_body(canvas, signer)
    for side, hand in zip((1, -1), hands, strict=True):
        _draw_arm(canvas, signer, hand, side)
    for side, hand in zip((1, -1), hands, strict=True):  # after both arms: a sleeve never hides the other hand
        _draw_hand(canvas, signer, hand, side)
    return ImageChops.multiply(canvas.image.reduce(SUPERSAMPLE), light)


def toned(colour: Colour, factor: float) -> Colour:
    """The colour times ``factor``, at most 255 per channel."""
    red, green, blue = (min(255, round(channel * factor)) for channel in colour)
    return red, green, blue


def from_hsv(hue: float, saturation: float, value: float) -> Colour:
    """Hue, saturation and value from 0 to 1 (the hue wraps round) as RGB."""
    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue % 1.0, saturation, value))
    return red, green, blue


def _draw_body(canvas: Canvas, signer: Signer) -> None:
    wide, radius = signer.shoulder, signer.head_radius
    canvas.ellipse((0, HEAD_Y - 0.02), radius * 1.05, radius * 1.28, signer.hair)
    if signer.hair_length > 0:
        canvas.rectangle(-radius * 1.05, HEAD_Y, radius * 2.1, signer.hair_length, signer.hair)
    canvas.limb([(0, HEAD_Y), (0, SHOULDER_Y - 0.02)], 0.085, toned(signer.skin, 0.8))
    outline = [(-0.06, SHOULDER_Y - 0.07), (0.06, SHOULDER_Y - 0.07), (wide, SHOULDER_Y - 0.03)]
    outline += [(wide * 0.85, SHIRT_BOTTOM_Y), (-wide * 0.85, SHIRT_BOTTOM_Y), (-wide, SHOULDER_Y - 0.03)]
    canvas.polygon(outline, signer.shirt)
    canvas.ellipse((0, HEAD_Y), radius * 0.88, radius * 1.12, signer.skin)
    for eye_x in (-0.4, 0.4):
        canvas.ellipse((eye_x * radius, HEAD_Y - 0.01), 0.011, 0.009, toned(signer.skin, 0.25))
    canvas.ellipse((0, HEAD_Y + 0.55 * radius), 0.026, 0.008, (130, 50, 50))


def _along(start: Point, angle_deg: float, length: float, side: int) -> Point:
    """``length`` away at ``angle_deg`` (90 up); ``side`` -1 mirrors for the other hand."""
    angle = math.radians(angle_deg)
    return start[0] + side * length * math.cos(angle), start[1] - length * math.sin(angle)


def _draw_arm(canvas: Canvas, signer: Signer, hand: HandPose, side: int) -> None:
    """Shoulder, elbow, wrist. The elbow follows the hand a little; foreshortening takes up the rest of the length."""
    palm = (side * hand.x, hand.y)
    wrist = _along(palm, hand.angle_deg + 180, (PALM_LENGTH / 2 + 0.05) * signer.hand_scale, side)
    shoulder = (-side * (signer.shoulder - 0.035), SHOULDER_Y)
    elbow = (
        shoulder[0] - side * ELBOW_OUT + ELBOW_FOLLOWS * (wrist[0] - shoulder[0]),
        shoulder[1] + ELBOW_DROP + ELBOW_FOLLOWS * (wrist[1] - shoulder[1] - ELBOW_DROP),
    )
    canvas.limb([shoulder, elbow, wrist], ARM_WIDTH, toned(signer.shirt, 1.35))


def _draw_hand(canvas: Canvas, signer: Signer, hand: HandPose, side: int) -> None:
    """Palm, four fingers fanned out from its far edge, and the thumb on top, on the side of the body's middle."""
    scale, colour, palm = signer.hand_scale, toned(signer.skin, BLUSH), (side * hand.x, hand.y)
    heel = _along(palm, hand.angle_deg + 180, PALM_LENGTH / 2 * scale, side)
    knuckles = _along(palm, hand.angle_deg, PALM_LENGTH / 2 * scale, side)
    canvas.limb([heel, knuckles], PALM_WIDTH * scale, colour)
    for rank in (-1.5, -0.5, 0.5, 1.5):  # index to little finger, from the thumb's side outwards
        finger = round(rank + 2.5)
        root = _along(knuckles, hand.angle_deg - 90, -rank * FINGER_WIDTH * 0.95 * scale, side)
        root = _along(root, hand.angle_deg, 0.022 * scale, side)
        length = CURLED_LENGTH + (FINGER_LENGTHS[finger] - CURLED_LENGTH) * hand.extension[finger]
        tip = _along(root, hand.angle_deg + rank * hand.spread_deg, length * scale, side)
        canvas.limb([root, tip], FINGER_WIDTH * scale, colour)
    stretched = hand.extension[0]
    root = _along(palm, hand.angle_deg - 90, (0.010 + 0.022 * stretched) * scale, side)
    angle_deg = THUMB_CURLED_DEG + (THUMB_DEG - THUMB_CURLED_DEG) * stretched
    length = 0.045 + (FINGER_LENGTHS[0] - 0.045) * stretched
    tip = _along(root, hand.angle_deg - angle_deg, length * scale, side)
    canvas.limb([root, tip], FINGER_WIDTH * 1.1 * scale, colour)
