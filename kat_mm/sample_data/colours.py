"""Colours, and the noise that varies them."""

from collections.abc import Sequence

import cv2
import numpy as np

# Red, green and blue.
Colour = Sequence[float] | np.ndarray

# Colours are RGB in [0, 1]. Cars share the facades' colours, so that colour alone tells nothing.
PAINTS = (
    (0.74, 0.30, 0.24),
    (0.83, 0.72, 0.55),
    (0.62, 0.66, 0.70),
    (0.88, 0.86, 0.82),
    (0.35, 0.47, 0.62),
    (0.45, 0.55, 0.45),
    (0.78, 0.60, 0.30),
    (0.36, 0.34, 0.36),
)
SKINS = ((0.93, 0.76, 0.64), (0.80, 0.60, 0.46), (0.55, 0.38, 0.28), (0.38, 0.26, 0.20))
FOLIAGE = (
    (0.24, 0.42, 0.18),
    (0.32, 0.50, 0.20),
    (0.18, 0.36, 0.24),
    (0.46, 0.50, 0.20),
    (0.74, 0.46, 0.18),
)
MEADOWS = ((0.40, 0.58, 0.24), (0.48, 0.60, 0.28), (0.60, 0.62, 0.32), (0.30, 0.48, 0.24))
GLASS = (0.22, 0.29, 0.36)
TYRE = (0.11, 0.11, 0.12)

# Zenith, horizon, tint of the light.
WEATHERS = (
    ((0.26, 0.50, 0.82), (0.76, 0.87, 0.95), (1.03, 1.01, 0.97)),
    ((0.38, 0.60, 0.86), (0.90, 0.93, 0.93), (1.00, 1.00, 1.00)),
    ((0.42, 0.50, 0.70), (0.98, 0.78, 0.56), (1.08, 0.97, 0.86)),
    ((0.62, 0.66, 0.71), (0.83, 0.85, 0.86), (0.90, 0.93, 0.97)),
    ((0.36, 0.36, 0.56), (0.88, 0.62, 0.56), (0.94, 0.87, 0.90)),
)


def choose(rng: np.random.Generator, colours: Sequence[Colour], jitter: float = 0.05) -> np.ndarray:
    """Return one of the colours, slightly varied in brightness and hue."""
    colour = np.array(colours[rng.integers(len(colours))])
    return np.clip(
        colour + rng.uniform(-jitter, jitter) + rng.uniform(-jitter, jitter, 3) / 2, 0, 1
    )


def mix(colour: Colour, other: Colour, amount: float | np.ndarray) -> np.ndarray:
    """Return the colour moved towards another one."""
    colour, other = np.asarray(colour, np.float32), np.asarray(other, np.float32)
    return colour + (other - colour) * amount


def noise(
    rng: np.random.Generator, height: int, width: int, cell_height: float, cell_width: float
) -> np.ndarray:
    """Return (height, width) smooth noise of about unit amplitude; it varies from cell to cell."""
    cells = rng.uniform(-1, 1, (round(height / cell_height) + 2, round(width / cell_width) + 2))
    return cv2.resize(cells.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)


def ridge(rng: np.random.Generator, width: int, amplitude: float, cell: float) -> np.ndarray:
    """Return the outline of hills: (width,) values of about +-amplitude; details of 3 sizes."""
    return amplitude * sum(
        noise(rng, 1, width, 1, cell / 2**octave)[0] / 2**octave for octave in range(3)
    )
