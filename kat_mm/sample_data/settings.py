"""The places that scenes are set in: what lies there, and what may stand on it."""

from typing import NamedTuple

import cv2
import numpy as np

from .canvas import Canvas, Pen
from .colours import MEADOWS, Colour, choose, mix, noise, ridge
from .objects import draw_building, draw_tree


class Group(NamedTuple):
    """Objects of one name to put between two heights, which are fractions of the image."""

    name: str
    count: int
    top: float
    bottom: float


def paint_sky(
    canvas: Canvas, rng: np.random.Generator, horizon: float, zenith: Colour, haze: Colour
) -> None:
    shape = canvas.height, canvas.width
    clouds = sum(
        noise(rng, *shape, canvas.height / 5 / 2**i, canvas.width / 3 / 2**i) / 2**i
        for i in range(4)
    )
    cover = np.clip((clouds - rng.uniform(-0.2, 0.9)) * 1.4, 0, 0.85)[..., None]
    rows = np.arange(canvas.height, dtype=np.float32)
    height = np.clip(rows / horizon, 0, 1)[:, None, None] ** 0.8
    canvas.begin('sky')
    canvas.band(0, haze)
    canvas.image[:] = mix(mix(zenith, haze, height), mix(haze, (1, 1, 1), 0.6), cover)


def paint_mountains(canvas: Canvas, rng: np.random.Generator, horizon: float, haze: Colour) -> None:
    rock = choose(rng, [(0.34, 0.38, 0.46), (0.40, 0.36, 0.34), (0.28, 0.36, 0.30)])
    x = np.arange(canvas.width)
    for distance in (0.55, 0.25)[rng.integers(2) :]:
        peak = rng.uniform(0.15, 0.4) * horizon * (1 + distance)
        outline = horizon - peak + ridge(rng, canvas.width, 0.5 * peak, canvas.width / 4)
        outline = np.clip(outline, 0.1 * horizon, horizon)
        canvas.begin('mountain')
        canvas.band(outline, mix(rock, haze, distance))
        if rng.random() < 0.4:
            snow_line = outline.min() + 0.4 * peak + ridge(rng, canvas.width, 0.15 * peak, 24)
            snow_line = np.maximum(snow_line, outline)
            snow = np.stack([np.tile(x, 2), np.append(outline, snow_line)], 1)
            snow[canvas.width :] = snow[: canvas.width - 1 : -1]
            canvas.polygon(snow, mix((0.95, 0.96, 0.98), haze, 0.5 * distance))


def paint_road(
    canvas: Canvas, rng: np.random.Generator, top: float | np.ndarray, bottom: float
) -> None:
    asphalt = choose(rng, [(0.36, 0.36, 0.38), (0.46, 0.45, 0.44), (0.30, 0.31, 0.34)], 0.03)
    marking = mix(choose(rng, [(0.92, 0.92, 0.88), (0.90, 0.78, 0.36)]), asphalt, 0.2)
    width, length = bottom - top, canvas.width / (bottom - top)
    pen = Pen(canvas, 0, bottom, width)
    canvas.begin('road')
    pen.rectangle(0, 0, length, 1, asphalt)
    period = rng.uniform(0.7, 1.1)
    for x in np.arange(-rng.random(), length, period):
        pen.rectangle(x, 0.48, x + 0.5 * period, 0.53, marking)


def paint_street(canvas: Canvas, rng: np.random.Generator, horizon: float) -> list[Group]:
    """Houses, a sidewalk and a road, seen from across the road."""
    height = canvas.height
    curb = horizon + rng.uniform(0.07, 0.11) * height
    road = curb + rng.uniform(0.06, 0.09) * height
    near = rng.uniform(0.84, 0.95) * height
    paving = choose(rng, [(0.66, 0.64, 0.61), (0.72, 0.66, 0.58), (0.58, 0.58, 0.60)], 0.04)
    canvas.begin('grass')
    canvas.band(horizon, choose(rng, MEADOWS))
    x = rng.uniform(-0.1, 0.15) * canvas.width
    while x < canvas.width:
        tall = rng.uniform(0.35, 0.72) * height
        if rng.random() < 0.8:
            canvas.begin('building')
            draw_building(Pen(canvas, x, curb, tall, flip=rng.random() < 0.5), rng)
        x += rng.uniform(0.45, 0.8) * tall
    canvas.begin('sidewalk')
    canvas.band(curb, paving)
    canvas.band(road - 0.012 * height, paving * 0.75)
    if rng.random() < 0.5:
        canvas.begin('grass')
        canvas.band(near, choose(rng, MEADOWS))
    else:
        canvas.band(near, paving * 1.04)
    paint_road(canvas, rng, road, near)

    curb, road, near = curb / height, road / height, near / height
    lane = (near - road) / 2
    return [
        Group('tree', rng.integers(4), curb + 0.01, road - 0.01),
        Group('crowd', rng.random() < 0.35, curb + 0.02, road - 0.01),
        Group('person', rng.integers(4), curb + 0.02, road),
        Group('car', rng.integers(3), road + 0.5 * lane, road + 0.8 * lane),
        Group('car', rng.integers(3), road + 1.4 * lane, road + 1.8 * lane),
        Group('person', rng.integers(3), near + 0.02, 1.04),
        Group('tree', rng.random() < 0.3, near + 0.02, 1.0),
    ]


def paint_meadow(canvas: Canvas, rng: np.random.Generator, horizon: float) -> list[Group]:
    """Hills of grass, sometimes with a country road."""
    height = canvas.height
    green = choose(rng, MEADOWS)
    for i, depth in enumerate((0.0, 0.12, 0.3)):
        hill = ridge(rng, canvas.width, 0.03 * height, canvas.width / 2)
        canvas.begin('grass')
        canvas.band(
            horizon + depth * (height - horizon) + hill,
            green * (0.86 + 0.08 * i) + rng.uniform(-0.03, 0.03, 3),
        )
    for _ in range(rng.integers(120)):
        y = rng.uniform(horizon + 0.3 * (height - horizon), height)
        flower = Pen(canvas, rng.uniform(0, canvas.width), y, 0.025 * (y - horizon))
        flower.ellipse(0, 0, 0.5, 0.4, choose(rng, [(0.95, 0.9, 0.4), (0.92, 0.9, 0.95)], 0.1))
    far = horizon / height + 0.08
    groups = [
        Group('tree', rng.integers(2, 8), far - 0.06, far + 0.06),
        Group('barn', rng.random() < 0.4, far, far + 0.06),
        Group('hay', rng.integers(4), far + 0.08, 1.0),
        Group('sheep', rng.integers(6), far + 0.08, 0.98),
        Group('person', rng.integers(3), far + 0.08, 1.0),
        Group('tree', rng.random() < 0.5, 0.85, 1.0),
    ]
    if rng.random() < 0.5:
        top, bottom = rng.uniform(0.62, 0.70), rng.uniform(0.76, 0.84)
        paint_road(canvas, rng, top * height, bottom * height)
        groups.append(Group('car', rng.integers(1, 3), top + 0.05, bottom - 0.02))
    return groups


def paint_lake(canvas: Canvas, rng: np.random.Generator, horizon: float) -> list[Group]:
    """Water between a far shore and a near one; it mirrors what is behind it."""
    height, width = canvas.height, canvas.width
    green = choose(rng, MEADOWS)
    canvas.begin('grass')
    canvas.band(horizon - (0.02 + ridge(rng, width, 0.015, width / 3)) * height, green * 0.8)
    for _ in range(rng.integers(9)):
        canvas.begin('tree')
        tall = rng.uniform(0.08, 0.2) * height
        draw_tree(Pen(canvas, rng.uniform(0, width), horizon, tall), rng)

    top = int(horizon)
    depth = height - top
    mirrored = cv2.resize(canvas.image[:top][::-1], (width, depth))
    rows = np.arange(depth, dtype=np.float32)[:, None]
    ripple = noise(rng, depth, width, 3, width / 8) * (2 + rows / 12)
    columns = np.arange(width, dtype=np.float32) + ripple
    mirrored = cv2.remap(
        mirrored, columns, rows + ripple, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    tint = choose(rng, [(0.20, 0.36, 0.46), (0.24, 0.42, 0.42), (0.30, 0.36, 0.42)])
    canvas.begin('water')
    canvas.band(top, tint)
    canvas.image[top:] = mix(mirrored, tint, rng.uniform(0.3, 0.6))

    shore = rng.uniform(0.78, 0.92)
    slope = rng.uniform(-0.1, 0.1) * np.linspace(-1, 1, width)
    line = (shore + slope + ridge(rng, width, 0.02, width / 3)) * height
    canvas.begin('grass')
    canvas.band(line, green * 0.7)
    canvas.band(line + 0.015 * height, green)
    return [
        Group('boat', rng.integers(4), horizon / height + 0.03, shore - 0.1),
        Group('tree', rng.integers(3), shore + 0.1, 1.05),
        Group('person', rng.integers(3), shore + 0.1, 1.05),
        Group('umbrella', rng.random() < 0.4, shore + 0.1, 1.02),
        Group('sheep', rng.integers(3), shore + 0.1, 1.02),
    ]


SETTINGS = {'street': paint_street, 'meadow': paint_meadow, 'lake': paint_lake}
