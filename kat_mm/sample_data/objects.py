"""The objects of a scene: each is drawn with a pen, standing at (0, 0), 1 unit high."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .canvas import Pen
from .colours import FOLIAGE, GLASS, PAINTS, SKINS, TYRE, choose, mix


def draw_tree(pen: Pen, rng: np.random.Generator) -> None:
    leaf = choose(rng, FOLIAGE)
    bark = choose(rng, [(0.36, 0.27, 0.20), (0.46, 0.40, 0.34)])
    if rng.random() < 0.35:  # a conifer
        pen.rectangle(-0.025, 0, 0.025, 0.2, bark)
        tiers = rng.integers(4, 6)
        for i in range(tiers):
            bottom, half = 0.1 + 0.78 * i / tiers, 0.23 * (1 - 0.8 * i / tiers)
            peak = min(bottom + 0.36, 1)
            pen.polygon([(-half, bottom), (half, bottom), (0, peak)], mix(leaf, (0, 0, 0), 0.3))
            pen.polygon([(-half, bottom), (half * 0.1, bottom), (0, peak)], leaf * 0.85)
        return
    spread = rng.uniform(0.24, 0.38)
    pen.polygon([(-0.04, 0), (0.04, 0), (0.02, 0.6), (-0.02, 0.6)], bark)
    for lightness, count in ((0.62, 24), (0.85, 20), (1.08, 16)):  # lower right to upper left
        shift = 0.2 * (lightness - 0.85)
        for _ in range(count):
            angle, radius = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random()) * (1.6 - lightness)
            x = spread * radius * np.cos(angle) - shift
            y = 0.64 + 0.26 * radius * np.sin(angle) + shift
            r = rng.uniform(0.05, 0.10)
            pen.blob(x, y, r * 1.15, r, leaf * lightness * rng.uniform(0.92, 1.08), rng)


def draw_building(pen: Pen, rng: np.random.Generator) -> None:
    half = rng.uniform(0.22, 0.5)
    wall, trim = choose(rng, PAINTS), choose(rng, [(0.9, 0.88, 0.84), (0.3, 0.28, 0.28)])
    top = 1.0
    if rng.random() < 0.4:  # a gabled roof instead of a flat one
        top = rng.uniform(0.76, 0.86)
        roof = choose(rng, [(0.50, 0.24, 0.18), (0.30, 0.30, 0.34), (0.44, 0.36, 0.30)])
        eave, hip = half * 1.06, half * rng.uniform(0, 0.7)
        pen.polygon([(-eave, top - 0.02), (eave, top - 0.02), (hip, 1), (-hip, 1)], roof)
    pen.rectangle(-half, 0, half, top, wall)
    pen.rectangle(half * 0.72, 0, half, top, wall * 0.8)  # the side away from the light
    pen.rectangle(-half, top - 0.035, half, top, trim)
    floors, columns = rng.integers(3, 7), rng.integers(3, 7)
    lit = rng.uniform(0, 0.3)
    for floor in range(1, floors):
        for column in range(columns):
            x = -half + 2 * half * (column + 0.5) / columns
            y = (top - 0.05) * (floor + 0.5) / floors
            w, h = 0.56 * half / columns, 0.28 * top / floors
            pane = (0.96, 0.86, 0.56) if rng.random() < lit else mix(GLASS, (0.6, 0.7, 0.8), 0.2)
            pen.rectangle(x - w, y - h, x + w, y + h, trim)
            pen.rectangle(x - 0.8 * w, y - 0.85 * h, x + 0.8 * w, y + 0.85 * h, pane)
    height = 0.7 * top / floors
    if rng.random() < 0.5:  # a shop with an awning
        pen.rectangle(-0.8 * half, 0, 0.6 * half, height, GLASS)
        awning = [(-0.85, height), (0.65, height), (0.7, 0.75 * height), (-0.9, 0.75 * height)]
        pen.polygon(np.array(awning) * (half, 1), choose(rng, PAINTS))
    else:
        x = rng.uniform(-0.6, 0.5) * half
        pen.rectangle(x - 0.05, 0, x + 0.05, height, mix(wall, (0.2, 0.1, 0.05), 0.7))


def draw_barn(pen: Pen, rng: np.random.Generator) -> None:
    half = rng.uniform(0.6, 0.85)
    wall = choose(rng, [(0.60, 0.20, 0.16), (0.50, 0.34, 0.24), (0.66, 0.60, 0.52)])
    roof = choose(rng, [(0.32, 0.31, 0.33), (0.44, 0.28, 0.22)])
    gable = -half + 0.75
    pen.rectangle(gable, 0, half, 0.55, wall * 0.85)
    pen.polygon([(gable, 0.52), (half * 1.04, 0.52), (half, 0.97), (gable - 0.36, 0.97)], roof)
    front = [(-half, 0), (gable, 0), (gable, 0.55), (gable - 0.12, 0.82)]
    pen.polygon([*front, (gable - 0.375, 1), (-half + 0.12, 0.82), (-half, 0.55)], wall)
    for board in np.linspace(gable, half, 7)[1:-1]:
        pen.rectangle(board - 0.006, 0, board + 0.006, 0.52, wall * 0.65)
    white, x = np.array((0.92, 0.90, 0.86)), -half + 0.375
    pen.rectangle(x - 0.18, 0, x + 0.18, 0.42, white)
    pen.rectangle(x - 0.15, 0, x + 0.15, 0.39, wall * 0.7)
    for side in (-1, 1):
        pen.limb((x - 0.15 * side, 0.0), (x + 0.15 * side, 0.39), 0.03, white)
    pen.rectangle(x - 0.08, 0.58, x + 0.08, 0.74, white)
    pen.rectangle(x - 0.06, 0.60, x + 0.06, 0.72, wall * 0.35)


def draw_lighthouse(pen: Pen, rng: np.random.Generator) -> None:
    stripe = choose(rng, [(0.78, 0.20, 0.18), (0.20, 0.24, 0.36), (0.74, 0.72, 0.68)])
    stripes, white = rng.integers(3, 7), np.array((0.93, 0.92, 0.89))
    pen.blob(0, 0.01, 0.26, 0.05, choose(rng, [(0.40, 0.37, 0.34)]), rng)

    def half(y: float) -> float:
        return 0.12 - 0.06 * y

    for i in range(stripes):
        y0, y1 = 0.78 * i / stripes, 0.78 * (i + 1) / stripes
        colour = stripe if i % 2 else white
        pen.polygon([(-half(y0), y0), (half(y0), y0), (half(y1), y1), (-half(y1), y1)], colour)
        shaded = [(half(y0) * 0.4, y0), (half(y0), y0), (half(y1), y1), (half(y1) * 0.4, y1)]
        pen.polygon(shaded, colour * 0.78)
    pen.rectangle(-0.11, 0.77, 0.11, 0.80, (0.25, 0.25, 0.27))
    pen.rectangle(-0.06, 0.80, 0.06, 0.91, (0.98, 0.92, 0.66))
    pen.rectangle(-0.012, 0.80, 0.012, 0.91, (0.30, 0.30, 0.32))
    pen.polygon([(-0.08, 0.90), (0.08, 0.90), (0, 1)], stripe * 0.8)


def draw_person(pen: Pen, rng: np.random.Generator) -> None:
    shirt, trousers = choose(rng, PAINTS, 0.12), choose(rng, PAINTS, 0.1) * 0.65
    skin = choose(rng, SKINS, 0.03)
    hair = choose(rng, [(0.15, 0.11, 0.09), (0.42, 0.28, 0.16), (0.72, 0.58, 0.36)])
    stride, swing = rng.uniform(0.02, 0.13), rng.uniform(0.04, 0.14)
    for side in (-1, 1):
        pen.limb((side * 0.035, 0.5), (side * stride, 0.03), 0.085, trousers)
        pen.limb((side * stride - 0.04, 0.02), (side * stride + 0.06, 0.02), 0.04, TYRE)
    pen.limb((-0.08, 0.77), (-0.1 - swing, 0.5), 0.06, shirt * 0.85)
    pen.polygon([(-0.09, 0.46), (0.09, 0.46), (0.115, 0.81), (-0.115, 0.81)], shirt)
    pen.limb((0.08, 0.77), (0.1 + swing, 0.5), 0.06, shirt * 0.92)
    for side in (-1, 1):
        pen.ellipse(side * (0.105 + swing), 0.48, 0.03, 0.03, skin)
    pen.rectangle(-0.03, 0.8, 0.03, 0.86, skin * 0.9)
    pen.ellipse(0, 0.925, 0.065, 0.075, hair)
    pen.ellipse(0.015, 0.905, 0.055, 0.06, skin)


def draw_crowd(pen: Pen, rng: np.random.Generator) -> None:
    height = -pen.scale[1]
    for x in np.sort(rng.uniform(-1.6, 1.6, rng.integers(9, 15))):
        foot = pen.origin + (x * height, -rng.uniform(0, 0.12) * height)
        draw_person(Pen(pen.canvas, *foot, height * rng.uniform(0.82, 0.98)), rng)


def draw_car(pen: Pen, rng: np.random.Generator) -> None:
    paint = choose(rng, PAINTS, 0.1)
    half = rng.uniform(1.25, 1.55)
    roof, nose = rng.uniform(-0.75, -0.4) * half, rng.uniform(0.1, 0.35) * half
    tail, waist = rng.uniform(-0.98, -0.8) * half, rng.uniform(0.56, 0.64)
    cabin = [(tail, waist), (roof, 1), (nose, 1), (nose + 0.45, waist)]
    bonnet = [(0.93 * half, waist - 0.08), (half, 0.42), (half, 0.18)]
    pen.polygon([(-half, 0.18), (-half, waist - 0.06), *cabin, *bonnet], paint)
    pen.polygon([(-half, 0.18), (-half, 0.38), (half, 0.36), (half, 0.18)], paint * 0.75)
    glass = np.array([(tail + 0.18, waist), (roof + 0.04, 0.93), (nose - 0.03, 0.93)])
    pen.polygon([*glass, (nose + 0.34, waist)], mix(GLASS, (0.7, 0.8, 0.9), rng.uniform(0, 0.35)))
    middle = (roof + nose) / 2
    pen.rectangle(middle - 0.04, waist, middle + 0.04, 0.95, paint)
    pen.rectangle(middle - 0.015, 0.25, middle + 0.015, waist, paint * 0.7)
    pen.rectangle(half - 0.12, 0.42, half, 0.52, (0.98, 0.94, 0.78))
    pen.rectangle(-half, 0.42, -half + 0.1, 0.54, (0.76, 0.12, 0.10))
    for x in (-0.62 * half, 0.62 * half):
        pen.ellipse(x, 0.22, 0.235, 0.235, TYRE)
        pen.ellipse(x, 0.22, 0.13, 0.13, (0.66, 0.67, 0.69))
        pen.ellipse(x, 0.22, 0.05, 0.05, (0.30, 0.30, 0.31))


def draw_bus(pen: Pen, rng: np.random.Generator) -> None:
    paint = choose(rng, [(0.95, 0.72, 0.14), (0.92, 0.64, 0.12)], 0.04)
    half, windows = rng.uniform(1.15, 1.45), rng.integers(5, 8)
    pen.polygon([(half - 0.1, 0.14), (half + 0.28, 0.14), (half + 0.26, 0.46), (half, 0.5)], paint)
    pen.rectangle(-half, 0.14, half, 0.96, paint)
    pen.polygon([(-half, 0.95), (half, 0.95), (half - 0.06, 1), (-half + 0.06, 1)], paint * 0.9)
    for y in (0.3, 0.5):
        pen.rectangle(-half, y, half, y + 0.025, TYRE)
    for i in range(windows):
        x = -half + 0.08 + (2 * half - 0.36) * i / windows
        width = (2 * half - 0.36) / windows - 0.05
        pen.rectangle(x, 0.58, x + width, 0.86, mix(GLASS, (0.7, 0.8, 0.9), rng.uniform(0, 0.3)))
    pen.rectangle(half - 0.24, 0.2, half - 0.04, 0.88, paint * 0.7)
    pen.rectangle(half - 0.21, 0.42, half - 0.07, 0.85, GLASS)
    pen.rectangle(half + 0.2, 0.3, half + 0.28, 0.38, (0.98, 0.95, 0.82))
    for x in (-0.6 * half, half + 0.02):
        pen.ellipse(x, 0.13, 0.14, 0.14, TYRE)
        pen.ellipse(x, 0.13, 0.07, 0.07, (0.62, 0.62, 0.63))


def draw_boat(pen: Pen, rng: np.random.Generator) -> None:
    hull = choose(rng, [(0.93, 0.93, 0.90), (0.24, 0.28, 0.42), (0.60, 0.24, 0.20), *PAINTS])
    sail = choose(rng, [(0.96, 0.95, 0.90), (0.93, 0.88, 0.76), (0.82, 0.36, 0.26)], 0.03)
    mast = (0.40, 0.30, 0.22)
    pen.limb((0.02, 0.1), (0.02, 1.0), 0.02, mast)
    pen.polygon([(0.0, 0.2), (-0.36, 0.22), (-0.02, 0.95)], sail)
    pen.polygon([(0.0, 0.2), (-0.12, 0.21), (-0.01, 0.95)], sail * 0.88)
    pen.polygon([(0.05, 0.2), (0.40, 0.2), (0.04, 0.88)], sail * 0.95)
    if rng.random() < 0.6:  # a yawl's small mast at the stern
        pen.limb((-0.4, 0.1), (-0.4, 0.6), 0.015, mast)
        pen.polygon([(-0.41, 0.2), (-0.58, 0.21), (-0.41, 0.56)], sail)
    pen.polygon([(-0.52, 0.17), (0.56, 0.19), (0.42, 0), (-0.44, 0)], hull)
    pen.polygon([(-0.47, 0.05), (0.46, 0.05), (0.42, 0), (-0.44, 0)], hull * 0.6)
    pen.rectangle(-0.3, 0.17, 0.04, 0.23, mix(hull, (0.9, 0.85, 0.75), 0.6))


def draw_sheep(pen: Pen, rng: np.random.Generator) -> None:
    wool = choose(rng, [(0.93, 0.90, 0.83), (0.84, 0.80, 0.72), (0.42, 0.36, 0.32)], 0.03)
    face = choose(rng, [(0.18, 0.15, 0.14), (0.80, 0.72, 0.62)], 0.03)
    for x in (-0.36, -0.22, 0.2, 0.34):
        pen.rectangle(x - 0.04, 0, x + 0.04, 0.36, face * 0.85)
    for lightness, count in ((0.72, 22), (0.88, 18), (1.02, 14)):  # the belly to the back
        for _ in range(count):
            x, y = rng.uniform(-0.46, 0.42), 0.3 * lightness + rng.uniform(0.12, 0.42)
            pen.blob(x, y, 0.12, 0.11, np.minimum(wool * lightness, 1), rng, 0.1)
    pen.ellipse(0.56, 0.72, 0.17, 0.12, face)
    pen.ellipse(0.66, 0.66, 0.09, 0.08, face * 0.9)
    pen.ellipse(0.5, 0.85, 0.11, 0.09, wool * 0.95)
    horn = (0.62, 0.54, 0.42)
    pen.ellipse(0.45, 0.74, 0.10, 0.11, horn)
    pen.ellipse(0.46, 0.73, 0.05, 0.055, np.array(horn) * 0.7)


def draw_umbrella(pen: Pen, rng: np.random.Generator) -> None:
    first, second = choose(rng, PAINTS, 0.12), choose(rng, [(0.95, 0.93, 0.88), *PAINTS])
    pen.limb((0, 0.0), (0, 0.98), 0.025, (0.32, 0.24, 0.18))
    rim = 0.62 * np.sin(np.linspace(-np.pi / 2, np.pi / 2, 7))
    angle = np.linspace(0, np.pi / 2, 8)
    for i, (left, right) in enumerate(pairwise(rim)):
        seams = [
            np.stack([x * np.cos(angle), 0.62 + 0.34 * np.sin(angle)], 1) for x in (left, right)
        ]
        scallop = [((left + right) / 2, 0.66)]
        colour = (first if i % 2 else second) * (1.05 - 0.06 * i)
        pen.polygon([*seams[0], *seams[1][::-1], *scallop], colour)


def draw_hay(pen: Pen, rng: np.random.Generator) -> None:
    straw = choose(rng, [(0.84, 0.70, 0.36), (0.76, 0.62, 0.34), (0.66, 0.58, 0.36)])
    if rng.random() < 0.5:  # a round bale
        pen.polygon([(-0.6, 0.02), (0.35, 0), (0.35, 1), (-0.55, 0.98)], straw * 0.85)
        pen.ellipse(-0.55, 0.5, 0.36, 0.48, straw * 0.85)
        pen.ellipse(0.35, 0.5, 0.4, 0.5, straw)
        for radius in (0.8, 0.55, 0.3):
            pen.ellipse(0.35, 0.5, 0.4 * radius, 0.5 * radius, straw * (0.78 + 0.25 * (1 - radius)))
            inner = radius - 0.1
            pen.ellipse(0.35, 0.5, 0.4 * inner, 0.5 * inner, straw)
        return
    pen.polygon([(-0.7, 0), (0.7, 0), (0.58, 0.4), (0.2, 0.9), (0, 1), (-0.25, 0.88)], straw)
    pen.polygon([(-0.7, 0), (-0.25, 0.88), (-0.6, 0.42)], straw)
    for _ in range(60):
        x, y = rng.uniform(-0.5, 0.5), rng.uniform(0.03, 0.75)
        if abs(x) < 0.55 * (1 - y):
            stalk = straw * rng.uniform(0.7, 1.15)
            pen.limb((x, y), (x + rng.uniform(-0.06, 0.06), y + 0.14), 0.015, np.minimum(stalk, 1))


def draw_bird(pen: Pen, rng: np.random.Generator) -> None:
    colour = choose(rng, [(0.22, 0.22, 0.25), (0.93, 0.93, 0.92), (0.48, 0.44, 0.40)], 0.03)
    lift = rng.uniform(0.35, 1.0)
    for side in (-1, 1):
        wing = [(0, 0.34), (side * 0.55, 0.3 + 0.5 * lift), (side * 1.15, lift), (side * 0.5, 0.3)]
        pen.polygon([*wing, (0, 0.1)], colour * (0.85 if side < 0 else 1))
    pen.ellipse(0, 0.22, 0.17, 0.2, colour * 0.9)


def draw_airplane(pen: Pen, rng: np.random.Generator) -> None:
    body = choose(rng, [(0.95, 0.95, 0.96), (0.82, 0.84, 0.87)], 0.02)
    livery = choose(rng, PAINTS, 0.12)
    pen.polygon([(-1.45, 0.46), (-1.75, 1.0), (-1.45, 1.0), (-1.0, 0.5)], livery)
    nose = [(1.35, 0.52), (1.62, 0.42), (1.7, 0.33), (1.6, 0.26), (1.3, 0.2)]
    pen.polygon([(-1.65, 0.46), (-1.5, 0.52), *nose, (-0.9, 0.2)], body)
    pen.polygon([(-1.2, 0.25), (-0.9, 0.2), (1.3, 0.2), (1.6, 0.26)], body * 0.7)
    pen.polygon([(-1.6, 0.44), (1.66, 0.36), (1.7, 0.33), (-1.4, 0.38)], livery)
    for x in np.linspace(-1.0, 1.15, 14):
        pen.rectangle(x, 0.42, x + 0.05, 0.47, GLASS)
    pen.polygon([(1.38, 0.50), (1.52, 0.44), (1.44, 0.42), (1.34, 0.44)], GLASS)
    pen.polygon([(-1.5, 0.44), (-1.85, 0.3), (-1.65, 0.3), (-1.15, 0.4)], body * 0.82)
    pen.polygon([(0.45, 0.3), (-0.1, 0.3), (-0.75, 0.0), (-0.5, 0.0)], body * 0.86)
    pen.ellipse(0.12, 0.13, 0.2, 0.07, livery * 0.8)
    pen.ellipse(0.28, 0.13, 0.05, 0.06, TYRE)


def draw_balloon(pen: Pen, rng: np.random.Generator) -> None:
    first, second = choose(rng, PAINTS, 0.15), choose(rng, [(0.96, 0.90, 0.70), *PAINTS], 0.1)
    t = np.linspace(0, 1, 25)
    y = 0.24 + 0.76 * t
    radius = 0.37 * np.sqrt(np.clip(1 - ((t - 0.6) / np.where(t > 0.6, 0.4, 0.66)) ** 2, 0, 1))
    gores = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 9))
    for i, (left, right) in enumerate(pairwise(gores)):
        outline = np.concatenate(
            [np.stack([left * radius, y], 1), np.stack([right * radius, y], 1)[::-1]]
        )
        pen.polygon(outline, (first if i % 2 else second) * (1.08 - 0.06 * i))
    for x in (-0.07, 0.07):
        pen.limb((x, 0.1), (x * 1.5, 0.26), 0.008, (0.25, 0.2, 0.15))
    pen.rectangle(-0.075, 0, 0.075, 0.11, (0.48, 0.32, 0.18))


class Shape(NamedTuple):
    """How an object is drawn, and how large.

    Args:
        draw: Takes a pen and the random generator.
        low, high: Range of its height, in the height of a person who stands there;
            in the height of the image for what flies.
        width: Its width for height 1.
    """

    draw: Callable
    low: float
    high: float
    width: float


SHAPES = {
    'tree': Shape(draw_tree, 2.2, 4.2, 0.8),
    'barn': Shape(draw_barn, 2.0, 2.8, 1.6),
    'lighthouse': Shape(draw_lighthouse, 4.0, 5.0, 0.4),
    'person': Shape(draw_person, 0.9, 1.05, 0.4),
    'crowd': Shape(draw_crowd, 0.9, 1.0, 3.6),
    'car': Shape(draw_car, 0.8, 0.95, 2.8),
    'bus': Shape(draw_bus, 1.6, 1.8, 2.8),
    'boat': Shape(draw_boat, 1.8, 3.2, 1.15),
    'sheep': Shape(draw_sheep, 0.55, 0.7, 1.4),
    'umbrella': Shape(draw_umbrella, 1.15, 1.3, 1.3),
    'hay': Shape(draw_hay, 0.7, 1.1, 1.4),
    'bird': Shape(draw_bird, 0.02, 0.05, 2.3),
    'airplane': Shape(draw_airplane, 0.08, 0.15, 3.5),
    'balloon': Shape(draw_balloon, 0.2, 0.4, 0.75),
}
FLYING = ('bird', 'airplane', 'balloon')
