"""Masks as COCO's files hold them."""

import cv2
import numpy as np


def polygons_of(mask: np.ndarray) -> tuple[list[list[float]], np.ndarray]:
    """Return the outlines of a mask as COCO polygons, and the mask that they enclose.

    The outlines run along the edges of the pixels, so that rasterising them gives the mask back;
    only holes are closed, since COCO's polygons have none.

    Args:
        mask: (H, W) bool.

    Returns:
        tuple[list[list[float]], np.ndarray]: x1, y1, x2, y2, ... of each part; (H, W) bool.
    """
    # Contours join the centres of pixels. In a mask twice as large these lie a quarter of a pixel
    # inside the edges of the pixels of the mask.
    double = mask.repeat(2, axis=0).repeat(2, axis=1).astype(np.uint8)
    contours, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    filled = cv2.drawContours(np.zeros_like(double), contours, -1, 1, cv2.FILLED)
    polygons = [(c.reshape(-1) / 2 + 0.25).tolist() for c in contours]
    return polygons, filled[::2, ::2].astype(bool)


def rle_of(mask: np.ndarray) -> dict:
    """Return a mask as COCO's uncompressed RLE: runs of 0, 1, 0, ... down the columns."""
    flat = mask.flatten(order='F')
    changes = np.flatnonzero(np.diff(flat, prepend=False, append=not flat[-1]))
    counts = np.diff(changes, prepend=0)
    return {'counts': counts.tolist(), 'size': list(mask.shape)}


def box_of(mask: np.ndarray) -> list[int]:
    """Return x, y, width and height of what a mask covers, in whole pixels."""
    x, y = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return [int(v) for v in (x[0], y[0], x[-1] - x[0] + 1, y[-1] - y[0] + 1)]
