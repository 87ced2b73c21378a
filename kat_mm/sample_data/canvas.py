"""A picture in the making, and a pen that draws one object on it."""

import cv2
import numpy as np
from numpy.typing import ArrayLike

from .colours import Colour


class Canvas:
    """A picture in the making; what is painted later hides what is there."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.image = np.zeros((height, width, 3), np.float32)
        self.segment_ids = np.zeros((height, width), np.uint8)
        self.segments = []

    def begin(self, kind: str) -> None:
        """Start a segment: all that is painted from now on belongs to it."""
        self.segments.append(kind)

    def polygon(self, points: ArrayLike, colour: Colour) -> None:
        """Fill a polygon; ``points`` is (N, 2), x and y in pixels."""
        points = np.round(np.asarray(points) * 16).astype(np.int32)
        cv2.fillPoly(self.image, [points], tuple(float(c) for c in colour), shift=4)
        cv2.fillPoly(self.segment_ids, [points], len(self.segments) - 1, shift=4)

    def band(self, top: float | np.ndarray, colour: Colour) -> None:
        """Fill everything below ``top``, a height in pixels or one per column."""
        top = np.broadcast_to(top, self.width)
        x = np.arange(self.width)
        outline = np.stack([x, top], axis=1)
        corners = [(self.width, top[-1]), (self.width, self.height), (0, self.height)]
        self.polygon(np.concatenate([outline, corners]), colour)

    def shadow(self, x: float, y: float, width: float, height: float) -> None:
        """Darken what lies around a point, softly."""
        x0, x1 = np.clip([x - 2 * width, x + 2 * width], 0, self.width).astype(int)
        y0, y1 = np.clip([y - 2 * height, y + 2 * height], 0, self.height).astype(int)
        dx = (np.arange(x0, x1, dtype=np.float32) - x) / width
        dy = (np.arange(y0, y1, dtype=np.float32) - y) / height
        self.image[y0:y1, x0:x1] *= 1 - 0.5 * np.exp(-(dx**2 + dy[:, None] ** 2))[..., None]


class Pen:
    """Draws one object in its own units: x to the right, y up, (0, 0) where it stands, height 1."""

    def __init__(
        self, canvas: Canvas, x: float, y: float, height: float, flip: bool = False
    ) -> None:
        self.canvas = canvas
        self.origin = np.array([x, y])
        self.scale = np.array([-height if flip else height, -height])

    def polygon(self, points: ArrayLike, colour: Colour) -> None:
        """Fill a polygon; ``points`` is (N, 2)."""
        self.canvas.polygon(np.asarray(points) * self.scale + self.origin, colour)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Fill what lies between two corners."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """Fill an ellipse about (x, y), by its half axes."""
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        self.polygon(np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1), colour)

    def blob(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        colour: Colour,
        rng: np.random.Generator,
        roughness: float = 0.15,
    ) -> None:
        """Fill an ellipse with a rough outline."""
        angle = np.linspace(0, 2 * np.pi, 18, endpoint=False)
        radius = 1 + roughness * rng.uniform(-1, 1, 18)
        points = [x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle)]
        self.polygon(np.stack(points, 1), colour)

    def limb(self, start: ArrayLike, end: ArrayLike, width: float, colour: Colour) -> None:
        """Fill a bar from one point to another."""
        (x0, y0), (x1, y1) = start, end
        side = np.array([y0 - y1, x1 - x0]) / max(np.hypot(x1 - x0, y1 - y0), 1e-6) * width / 2
        self.polygon([start - side, start + side, end + side, end - side], colour)
