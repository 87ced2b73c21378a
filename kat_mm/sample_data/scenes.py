"""Scenes: a picture, and for every pixel which segment covers it."""

from typing import NamedTuple

import cv2
import numpy as np

from .canvas import Canvas, Pen
from .colours import WEATHERS, Colour, noise
from .kinds import KINDS, Kind
from .objects import FLYING, SHAPES
from .settings import SETTINGS, Group, paint_mountains, paint_sky

# How strongly a surface shows fine grain, soft blotches and horizontal ripples.
TEXTURES = {
    'sky': (0.01, 0.0, 0.0),
    'mountain': (0.08, 0.16, 0.0),
    'grass': (0.16, 0.14, 0.04),
    'road': (0.09, 0.06, 0.03),
    'sidewalk': (0.07, 0.06, 0.0),
    'water': (0.02, 0.02, 0.14),
    'tree': (0.13, 0.14, 0.0),
    'building': (0.05, 0.06, 0.0),
    'barn': (0.06, 0.08, 0.0),
    'sheep': (0.10, 0.05, 0.0),
    'hay': (0.16, 0.08, 0.06),
}
PLAIN_TEXTURE = (0.03, 0.04, 0.0)

# Drawn this much larger and averaged down, which smooths edges.
SUPERSAMPLING = 2
# Of an object less than this many pixels of which show, an annotator would not know what it is.
MIN_VISIBLE_PIXELS = 16


# Height of its foot, and of the middle, in the picture; its own height; its name.
Placement = tuple[float, float, float, str]


class Scene(NamedTuple):
    """A drawn picture and what is in it.

    Args:
        image: (H, W, 3) uint8, RGB.
        segment_ids: (H, W) uint8, the index in ``segments`` of what each pixel shows.
        segments: A key of ``KINDS`` for each segment; the hidden ones too.
    """

    image: np.ndarray
    segment_ids: np.ndarray
    segments: list

    def semantic_map(self) -> np.ndarray:
        """Return the (H, W) uint8 map of ADE20K labels."""
        return np.array([KINDS[s].ade20k for s in self.segments], np.uint8)[self.segment_ids]

    def instances(self) -> list[tuple[Kind, np.ndarray]]:
        """Return (kind, (H, W) bool mask of what shows) of every object that COCO annotates."""
        instances = []
        for i, name in enumerate(self.segments):
            if KINDS[name].coco is None:
                continue
            mask = self.segment_ids == i
            if mask.sum() >= MIN_VISIBLE_PIXELS:
                instances.append((KINDS[name], mask))
        return instances

    def panoptic_segments(self) -> list[tuple[int, bool, np.ndarray]]:
        """Return (category id, iscrowd, (H, W) bool mask of what shows) of what COCO segments.

        Regions of one category are one segment, as COCO has it.
        """
        regions = {}
        for i, name in enumerate(self.segments):
            category = KINDS[name].coco_stuff
            mask = self.segment_ids == i
            if category is not None and mask.any():
                regions[category] = regions.get(category, False) | mask
        objects = [(kind.coco, kind.iscrowd, mask) for kind, mask in self.instances()]
        return objects + [(category, False, mask) for category, mask in regions.items()]


def place_groups(
    canvas: Canvas, rng: np.random.Generator, horizon: float, groups: list[Group]
) -> list[Placement]:
    """Return (y, x, height, name) of every object of the groups, in pixels; far ones come first."""
    placements = []
    for group in groups:
        shape = SHAPES[group.name]
        for _ in range(group.count):
            y = rng.uniform(group.top, group.bottom) * canvas.height
            unit = canvas.height
            if group.name not in FLYING:
                unit = 0.1 * canvas.height + 0.35 * (y - horizon)
            height = rng.uniform(shape.low, shape.high) * unit
            placements.append((y, rng.uniform(0.03, 0.97) * canvas.width, height, group.name))
    return sorted(placements)


def place_subject(canvas: Canvas, rng: np.random.Generator, name: str) -> Placement:
    """Return (y, x, height, name) of an object that fills most of the picture, in pixels."""
    width = SHAPES[name].width
    height = rng.uniform(0.5, 0.85) * min(canvas.height, canvas.width / width)
    x = 0.5 * canvas.width + rng.uniform(-0.5, 0.5) * (canvas.width - width * height)
    low, high = (0.0, 0.85) if name in FLYING else (0.7, 0.95)
    y = rng.uniform(max(low * canvas.height, height), max(high * canvas.height, height))
    return y, x, height, name


def finish(
    rng: np.random.Generator,
    image: np.ndarray,
    segment_ids: np.ndarray,
    segments: list[str],
    tint: Colour,
) -> np.ndarray:
    """Give the surfaces their texture and the picture its light; return (H, W, 3) uint8."""
    height, width = segment_ids.shape
    grain = noise(rng, height, width, 1, 1)
    blotches = noise(rng, height, width, height / 12, width / 12)
    ripples = noise(rng, height, width, 2, width / 16)
    strengths = np.array([TEXTURES.get(name, PLAIN_TEXTURE) for name in segments], np.float32)
    grained, blotched, rippled = strengths.T
    light = (0.9 + 0.18 * rng.random()) * (1 + 0.12 * noise(rng, height, width, height, width))
    light *= (
        1
        + grained[segment_ids] * grain
        + blotched[segment_ids] * blotches
        + rippled[segment_ids] * ripples
    )
    image = image * light[..., None] * tint
    image += rng.normal(0, 0.012, image.shape)  # the noise of a sensor
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def draw_scene(
    rng: np.random.Generator,
    width: int,
    height: int,
    setting: str,
    subject: str | None = None,
    empty: bool = False,
) -> Scene:
    """Draw one scene.

    Args:
        rng: The source of all variation.
        width, height: Size of the image in pixels.
        setting: A key of ``SETTINGS``.
        subject: Name of an object that is to fill the image, the only one in it.
        empty: Whether to leave out all objects that COCO annotates.

    Returns:
        Scene: The image and what is in it.
    """
    canvas = Canvas(height * SUPERSAMPLING, width * SUPERSAMPLING)
    horizon = rng.uniform(0.38, 0.52) * canvas.height
    zenith, haze, tint = (np.array(c, np.float32) for c in WEATHERS[rng.integers(len(WEATHERS))])
    zenith, haze = zenith + rng.uniform(-0.05, 0.05, 3), haze + rng.uniform(-0.03, 0.03, 3)
    paint_sky(canvas, rng, horizon, zenith, haze)
    if rng.random() < (0.3 if setting == 'street' else 0.7):
        paint_mountains(canvas, rng, horizon, haze)
    groups = SETTINGS[setting](canvas, rng, horizon)
    groups.append(Group('bird', rng.integers(4) * (rng.random() < 0.5), 0.06, 0.3))
    if setting != 'street':
        groups.append(Group('balloon', rng.random() < 0.35, 0.3, 0.42))

    if subject or empty:
        groups = [g for g in groups if KINDS[g.name].coco is None]
    if subject:
        # Only what lies behind it, and shows no other class of ImageNet
        groups = [g for g in groups if KINDS[g.name].synset is None and g.bottom < 0.7]
    placements = place_groups(canvas, rng, horizon, groups)
    if subject:
        placements.append(place_subject(canvas, rng, subject))
    for y, x, size, name in placements:
        shape = SHAPES[name]
        if name not in FLYING:
            canvas.shadow(x, y, 0.5 * shape.width * size, 0.06 * size)
        canvas.begin(name)
        shape.draw(Pen(canvas, x, y, size, flip=rng.random() < 0.5), rng)
    image = cv2.resize(canvas.image, (width, height), interpolation=cv2.INTER_AREA)
    segment_ids = canvas.segment_ids[::SUPERSAMPLING, ::SUPERSAMPLING].copy()
    image = finish(rng, image, segment_ids, canvas.segments, tint)
    return Scene(image, segment_ids, canvas.segments)
