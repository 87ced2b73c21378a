"""Small data sets of drawn outdoor scenes, in the layouts of ADE20K, COCO and ImageNet.

One drawing serves the three tasks: a :class:`Scene` knows for every pixel which segment covers
it, and for every segment what it is. Masks are therefore exact, and modal: what is hidden is not
in them. Image ``i`` of a split depends on the seed, the split and ``i`` alone, so a larger data set
begins with the images of a smaller one.
"""

import json
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np


class Kind(NamedTuple):
    """What a segment is, in the vocabulary of each data set.

    Args:
        ade20k (int): Label in the annotation images of ADE20K (SceneParse150); 0 is "other".
        coco (int | None): COCO category id; None for what COCO does not detect.
        coco_stuff (int | None): COCO panoptic category id of a region; None for what is an object,
            or in no class.
        iscrowd (bool): Whether COCO marks it as a group that is not told apart.
        synset (str | None): WordNet id of the ImageNet class that shows it.
        settings (tuple[str]): Where it stands when it is the subject of an ImageNet image.
    """

    ade20k: int
    coco: int | None = None
    iscrowd: bool = False
    synset: str | None = None
    settings: tuple = ()
    coco_stuff: int | None = None


KINDS = {
    'sky': Kind(3, coco_stuff=187),
    'mountain': Kind(17, coco_stuff=192),
    'grass': Kind(10, coco_stuff=193),
    'road': Kind(7, coco_stuff=149),
    'sidewalk': Kind(12, coco_stuff=191),
    'water': Kind(22, coco_stuff=178),
    'tree': Kind(5, coco_stuff=184),
    'building': Kind(2, coco_stuff=197),
    'person': Kind(13, coco=1),
    'crowd': Kind(13, coco=1, iscrowd=True),
    'bird': Kind(127, coco=16),
    'car': Kind(21, coco=3, synset='n04285008', settings=('street', 'meadow')),
    'bus': Kind(81, coco=6, synset='n04146614', settings=('street', 'meadow')),
    'boat': Kind(77, coco=9, synset='n04612504', settings=('lake',)),
    'airplane': Kind(91, coco=5, synset='n02690373', settings=('street', 'meadow', 'lake')),
    'sheep': Kind(127, coco=20, synset='n02412080', settings=('meadow', 'lake')),
    'umbrella': Kind(0, coco=28, synset='n04507155', settings=('street', 'lake')),
    'balloon': Kind(0, synset='n02782093', settings=('meadow', 'lake')),
    'hay': Kind(0, synset='n07802026', settings=('meadow',)),
    'barn': Kind(2, synset='n02793495', settings=('meadow',), coco_stuff=197),
    'lighthouse': Kind(85, synset='n02814860', settings=('lake',), coco_stuff=197),
}

# COCO's 80 categories by supercategory; the ids have gaps.
COCO_CATEGORIES = {
    'person': {1: 'person'},
    'vehicle': {
        2: 'bicycle',
        3: 'car',
        4: 'motorcycle',
        5: 'airplane',
        6: 'bus',
        7: 'train',
        8: 'truck',
        9: 'boat',
    },
    'outdoor': {
        10: 'traffic light',
        11: 'fire hydrant',
        13: 'stop sign',
        14: 'parking meter',
        15: 'bench',
    },
    'animal': {
        16: 'bird',
        17: 'cat',
        18: 'dog',
        19: 'horse',
        20: 'sheep',
        21: 'cow',
        22: 'elephant',
        23: 'bear',
        24: 'zebra',
        25: 'giraffe',
    },
    'accessory': {27: 'backpack', 28: 'umbrella', 31: 'handbag', 32: 'tie', 33: 'suitcase'},
    'sports': {
        34: 'frisbee',
        35: 'skis',
        36: 'snowboard',
        37: 'sports ball',
        38: 'kite',
        39: 'baseball bat',
        40: 'baseball glove',
        41: 'skateboard',
        42: 'surfboard',
        43: 'tennis racket',
    },
    'kitchen': {
        44: 'bottle',
        46: 'wine glass',
        47: 'cup',
        48: 'fork',
        49: 'knife',
        50: 'spoon',
        51: 'bowl',
    },
    'food': {
        52: 'banana',
        53: 'apple',
        54: 'sandwich',
        55: 'orange',
        56: 'broccoli',
        57: 'carrot',
        58: 'hot dog',
        59: 'pizza',
        60: 'donut',
        61: 'cake',
    },
    'furniture': {
        62: 'chair',
        63: 'couch',
        64: 'potted plant',
        65: 'bed',
        67: 'dining table',
        70: 'toilet',
    },
    'electronic': {
        72: 'tv',
        73: 'laptop',
        74: 'mouse',
        75: 'remote',
        76: 'keyboard',
        77: 'cell phone',
    },
    'appliance': {
        78: 'microwave',
        79: 'oven',
        80: 'toaster',
        81: 'sink',
        82: 'refrigerator',
    },
    'indoor': {
        84: 'book',
        85: 'clock',
        86: 'vase',
        87: 'scissors',
        88: 'teddy bear',
        89: 'hair drier',
        90: 'toothbrush',
    },
}

# The 53 regions that COCO's panoptic task adds, likewise.
COCO_STUFF = {
    'textile': {
        92: 'banner',
        93: 'blanket',
        109: 'curtain',
        141: 'pillow',
        168: 'towel',
        200: 'rug-merged',
    },
    'building': {
        95: 'bridge',
        128: 'house',
        151: 'roof',
        166: 'tent',
        197: 'building-other-merged',
    },
    'raw-material': {100: 'cardboard', 195: 'paper-merged'},
    'furniture-stuff': {
        107: 'counter',
        112: 'door-stuff',
        130: 'light',
        133: 'mirror-stuff',
        156: 'shelf',
        161: 'stairs',
        188: 'cabinet-merged',
        189: 'table-merged',
    },
    'floor': {118: 'floor-wood', 190: 'floor-other-merged'},
    'plant': {119: 'flower', 184: 'tree-merged', 193: 'grass-merged'},
    'food-stuff': {122: 'fruit', 196: 'food-other-merged'},
    'ground': {
        125: 'gravel',
        144: 'platform',
        145: 'playingfield',
        147: 'railroad',
        149: 'road',
        154: 'sand',
        159: 'snow',
        191: 'pavement-merged',
        194: 'dirt-merged',
    },
    'structural': {138: 'net', 185: 'fence-merged'},
    'water': {148: 'river', 155: 'sea', 178: 'water-other'},
    'wall': {
        171: 'wall-brick',
        175: 'wall-stone',
        176: 'wall-tile',
        177: 'wall-wood',
        199: 'wall-other-merged',
    },
    'window': {180: 'window-blind', 181: 'window-other'},
    'ceiling': {186: 'ceiling-merged'},
    'sky': {187: 'sky-other-merged'},
    'solid': {192: 'mountain-merged', 198: 'rock-merged'},
}

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
# Raise it whenever the files change, so that sample data of an older version is recognised.
DRAWING_VERSION = 2
# Kept in each data set: who made it, and how. What lacks it is never overwritten.
SETTINGS_FILE = 'sample_data.json'
MADE_BY = 'tools/make_sample_data.py'


class Scene(NamedTuple):
    """A drawn picture and what is in it.

    Args:
        image (np.ndarray): (H, W, 3) uint8, RGB.
        segment_ids (np.ndarray): (H, W) uint8, the index in ``segments`` of what each pixel shows.
        segments (list[str]): A key of ``KINDS`` for each segment; the hidden ones too.
    """

    image: np.ndarray
    segment_ids: np.ndarray
    segments: list

    def semantic_map(self):
        """Return the (H, W) uint8 map of ADE20K labels."""
        return np.array([KINDS[s].ade20k for s in self.segments], np.uint8)[self.segment_ids]

    def instances(self):
        """Return (kind, (H, W) bool mask of what shows) of every object that COCO annotates."""
        instances = []
        for i, name in enumerate(self.segments):
            if KINDS[name].coco is None:
                continue
            mask = self.segment_ids == i
            if mask.sum() >= MIN_VISIBLE_PIXELS:
                instances.append((KINDS[name], mask))
        return instances

    def panoptic_segments(self):
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


class Canvas:
    """A picture in the making; what is painted later hides what is there."""

    def __init__(self, height, width):
        self.height, self.width = height, width
        self.image = np.zeros((height, width, 3), np.float32)
        self.segment_ids = np.zeros((height, width), np.uint8)
        self.segments = []

    def begin(self, kind):
        """Start a segment: all that is painted from now on belongs to it."""
        self.segments.append(kind)

    def polygon(self, points, colour):
        """Fill a polygon; ``points`` is (N, 2), x and y in pixels."""
        points = np.round(np.asarray(points) * 16).astype(np.int32)
        cv2.fillPoly(self.image, [points], tuple(float(c) for c in colour), shift=4)
        cv2.fillPoly(self.segment_ids, [points], len(self.segments) - 1, shift=4)

    def band(self, top, colour):
        """Fill everything below ``top``, a height in pixels or one per column."""
        top = np.broadcast_to(top, self.width)
        x = np.arange(self.width)
        outline = np.stack([x, top], axis=1)
        corners = [(self.width, top[-1]), (self.width, self.height), (0, self.height)]
        self.polygon(np.concatenate([outline, corners]), colour)

    def shadow(self, x, y, width, height):
        """Darken what lies around a point, softly."""
        x0, x1 = np.clip([x - 2 * width, x + 2 * width], 0, self.width).astype(int)
        y0, y1 = np.clip([y - 2 * height, y + 2 * height], 0, self.height).astype(int)
        dx = (np.arange(x0, x1, dtype=np.float32) - x) / width
        dy = (np.arange(y0, y1, dtype=np.float32) - y) / height
        self.image[y0:y1, x0:x1] *= 1 - 0.5 * np.exp(-(dx**2 + dy[:, None] ** 2))[..., None]


class Pen:
    """Draws one object in its own units: x to the right, y up, (0, 0) where it stands, height 1."""

    def __init__(self, canvas, x, y, height, flip=False):
        self.canvas = canvas
        self.origin = np.array([x, y])
        self.scale = np.array([-height if flip else height, -height])

    def polygon(self, points, colour):
        self.canvas.polygon(np.asarray(points) * self.scale + self.origin, colour)

    def rectangle(self, x0, y0, x1, y1, colour):
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def ellipse(self, x, y, rx, ry, colour):
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        self.polygon(np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1), colour)

    def blob(self, x, y, rx, ry, colour, rng, roughness=0.15):
        angle = np.linspace(0, 2 * np.pi, 18, endpoint=False)
        radius = 1 + roughness * rng.uniform(-1, 1, 18)
        points = [x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle)]
        self.polygon(np.stack(points, 1), colour)

    def limb(self, start, end, width, colour):
        (x0, y0), (x1, y1) = start, end
        side = np.array([y0 - y1, x1 - x0]) / max(np.hypot(x1 - x0, y1 - y0), 1e-6) * width / 2
        self.polygon([start - side, start + side, end + side, end - side], colour)


def choose(rng, colours, jitter=0.05):
    """Return one of the colours, slightly varied in brightness and hue."""
    colour = np.array(colours[rng.integers(len(colours))])
    return np.clip(
        colour + rng.uniform(-jitter, jitter) + rng.uniform(-jitter, jitter, 3) / 2, 0, 1
    )


def mix(colour, other, amount):
    """Return the colour moved towards another one."""
    colour, other = np.asarray(colour, np.float32), np.asarray(other, np.float32)
    return colour + (other - colour) * amount


def noise(rng, height, width, cell_height, cell_width):
    """Return (height, width) smooth noise of about unit amplitude; it varies from cell to cell."""
    grid = rng.uniform(-1, 1, (round(height / cell_height) + 2, round(width / cell_width) + 2))
    return cv2.resize(grid.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)


def ridge(rng, width, amplitude, cell):
    """Return the outline of hills: (width,) values of about +-amplitude; details of 3 sizes."""
    return amplitude * sum(
        noise(rng, 1, width, 1, cell / 2**octave)[0] / 2**octave for octave in range(3)
    )


# ---- Objects: each is drawn with a pen, standing at (0, 0), 1 unit high


def draw_tree(pen, rng):
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


def draw_building(pen, rng):
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


def draw_barn(pen, rng):
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


def draw_lighthouse(pen, rng):
    stripe = choose(rng, [(0.78, 0.20, 0.18), (0.20, 0.24, 0.36), (0.74, 0.72, 0.68)])
    stripes, white = rng.integers(3, 7), np.array((0.93, 0.92, 0.89))
    pen.blob(0, 0.01, 0.26, 0.05, choose(rng, [(0.40, 0.37, 0.34)]), rng)

    def half(y):
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


def draw_person(pen, rng):
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


def draw_crowd(pen, rng):
    height = -pen.scale[1]
    for x in np.sort(rng.uniform(-1.6, 1.6, rng.integers(9, 15))):
        foot = pen.origin + (x * height, -rng.uniform(0, 0.12) * height)
        draw_person(Pen(pen.canvas, *foot, height * rng.uniform(0.82, 0.98)), rng)


def draw_car(pen, rng):
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


def draw_bus(pen, rng):
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


def draw_boat(pen, rng):
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


def draw_sheep(pen, rng):
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


def draw_umbrella(pen, rng):
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


def draw_hay(pen, rng):
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


def draw_bird(pen, rng):
    colour = choose(rng, [(0.22, 0.22, 0.25), (0.93, 0.93, 0.92), (0.48, 0.44, 0.40)], 0.03)
    lift = rng.uniform(0.35, 1.0)
    for side in (-1, 1):
        wing = [(0, 0.34), (side * 0.55, 0.3 + 0.5 * lift), (side * 1.15, lift), (side * 0.5, 0.3)]
        pen.polygon([*wing, (0, 0.1)], colour * (0.85 if side < 0 else 1))
    pen.ellipse(0, 0.22, 0.17, 0.2, colour * 0.9)


def draw_airplane(pen, rng):
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


def draw_balloon(pen, rng):
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
        draw (callable): Takes a pen and the random generator.
        low, high (float): Range of its height, in the height of a person who stands there;
            in the height of the image for what flies.
        width (float): Its width for height 1.
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


# ---- Scenes


class Group(NamedTuple):
    """Objects of one name to put between two heights, which are fractions of the image."""

    name: str
    count: int
    top: float
    bottom: float


def paint_sky(canvas, rng, horizon, zenith, haze):
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


def paint_mountains(canvas, rng, horizon, haze):
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


def paint_road(canvas, rng, top, bottom):
    asphalt = choose(rng, [(0.36, 0.36, 0.38), (0.46, 0.45, 0.44), (0.30, 0.31, 0.34)], 0.03)
    marking = mix(choose(rng, [(0.92, 0.92, 0.88), (0.90, 0.78, 0.36)]), asphalt, 0.2)
    width, length = bottom - top, canvas.width / (bottom - top)
    pen = Pen(canvas, 0, bottom, width)
    canvas.begin('road')
    pen.rectangle(0, 0, length, 1, asphalt)
    period = rng.uniform(0.7, 1.1)
    for x in np.arange(-rng.random(), length, period):
        pen.rectangle(x, 0.48, x + 0.5 * period, 0.53, marking)


def paint_street(canvas, rng, horizon):
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


def paint_meadow(canvas, rng, horizon):
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


def paint_lake(canvas, rng, horizon):
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


def place_groups(canvas, rng, horizon, groups):
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


def place_subject(canvas, rng, name):
    """Return (y, x, height, name) of an object that fills most of the picture, in pixels."""
    width = SHAPES[name].width
    height = rng.uniform(0.5, 0.85) * min(canvas.height, canvas.width / width)
    x = 0.5 * canvas.width + rng.uniform(-0.5, 0.5) * (canvas.width - width * height)
    low, high = (0.0, 0.85) if name in FLYING else (0.7, 0.95)
    y = rng.uniform(max(low * canvas.height, height), max(high * canvas.height, height))
    return y, x, height, name


def finish(rng, image, segment_ids, segments, tint):
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


def draw_scene(rng, width, height, setting, subject=None, empty=False):
    """Draw one scene.

    Args:
        rng (np.random.Generator): The source of all variation.
        width, height (int): Size of the image in pixels.
        setting (str): A key of ``SETTINGS``.
        subject (str | None): Name of an object that is to fill the image, the only one in it.
        empty (bool): Whether to leave out all objects that COCO annotates.

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


# ---- Data sets


def polygons_of(mask):
    """Return the outlines of a mask as COCO polygons, and the mask that they enclose.

    The outlines run along the edges of the pixels, so that rasterising them gives the mask back;
    only holes are closed, since COCO's polygons have none.

    Args:
        mask (np.ndarray): (H, W) bool.

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


def rle_of(mask):
    """Return a mask as COCO's uncompressed RLE: runs of 0, 1, 0, ... down the columns."""
    flat = mask.flatten(order='F')
    changes = np.flatnonzero(np.diff(flat, prepend=False, append=not flat[-1]))
    counts = np.diff(changes, prepend=0)
    return {'counts': counts.tolist(), 'size': list(mask.shape)}


def box_of(mask):
    """Return x, y, width and height of what a mask covers, in whole pixels."""
    x, y = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return [int(v) for v in (x[0], y[0], x[-1] - x[0] + 1, y[-1] - y[0] + 1)]


def panoptic_annotation(scene):
    """Return COCO's panoptic picture of a scene, (H, W, 3) uint8, and its ``segments_info``.

    A pixel's colour is the id of its segment, R + 256 G + 65536 B; black is no segment.
    """
    ids = np.zeros(scene.segment_ids.shape, np.uint32)
    infos = []
    for number, (category, iscrowd, mask) in enumerate(scene.panoptic_segments(), start=1):
        segment = number * 61_001  # far apart, so that neighbours differ to the eye
        ids[mask] = segment
        infos.append(
            {
                'id': segment,
                'category_id': category,
                'iscrowd': int(iscrowd),
                'bbox': box_of(mask),
                'area': int(mask.sum()),
            }
        )
    return np.stack([ids >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8), infos


def coco_annotation(kind, mask):
    """Return the annotation of an object, without its ids of annotation and image."""
    if kind.iscrowd:
        segmentation = rle_of(mask)
    else:
        segmentation, mask = polygons_of(mask)
    return {
        'category_id': kind.coco,
        'bbox': [float(v) for v in box_of(mask)],
        'area': float(mask.sum()),
        'iscrowd': int(kind.iscrowd),
        'segmentation': segmentation,
    }


def write_image(path, image):
    """Write an (H, W, 3) RGB or (H, W) uint8 image; raises OSError where it cannot."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # Not cv2.imwrite, which reports a full disk only by its return value
    _, data = cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    path.write_bytes(data)


def write_json(path, value):
    """Write a value as JSON on one line; raises OSError where it cannot."""
    path.write_text(json.dumps(value) + '\n')


class SampleSettings(NamedTuple):
    """What decides the content of a sample data set.

    Args:
        num_train, num_val (int): Number of images of each split.
        width, height (int): Mean size of the images in pixels; each differs by up to 15 %.
        seed (int): Another seed draws other images.
    """

    num_train: int = 64
    num_val: int = 16
    width: int = 256
    height: int = 192
    seed: int = 0

    def check(self):
        """Raise ValueError, naming the setting, if one is out of range."""
        ranges = {
            'num_train': (1, 10**6),
            'num_val': (1, 10**6),
            'width': (32, 4096),
            'height': (32, 4096),
            'seed': (0, 2**32 - 1),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f'{name} must be from {low} to {high}, but it is {value}')

    def splits(self):
        """Return the name and the number of images of each split."""
        return ('train', self.num_train), ('val', self.num_val)

    def draw(self, split, index, subject=None, empty=False):
        """Return the scene of image ``index`` of a split; see :func:`draw_scene` for the rest."""
        rng = np.random.default_rng([self.seed, ('train', 'val').index(split), index])
        width = round(self.width * rng.uniform(0.85, 1.15))
        height = round(self.height * rng.uniform(0.85, 1.15))
        if subject:
            settings = KINDS[subject].settings
            setting = settings[rng.integers(len(settings))]
        else:
            setting = list(SETTINGS)[index % len(SETTINGS)]  # so that few images show them all
        return draw_scene(rng, width, height, setting, subject, empty)


def write_ade20k(folder, settings):
    """Write the images and label images of ADEChallengeData2016 into a new folder."""
    for split, count in settings.splits():
        directory = {'train': 'training', 'val': 'validation'}[split]
        images = folder / 'ADEChallengeData2016' / 'images' / directory
        annotations = folder / 'ADEChallengeData2016' / 'annotations' / directory
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for index in range(count):
            scene = settings.draw(split, index)
            name = f'ADE_{split}_{index + 1:08d}'
            write_image(images / f'{name}.jpg', scene.image)
            write_image(annotations / f'{name}.png', scene.semantic_map())


def write_coco(folder, settings):
    """Write images, instance and panoptic annotations of COCO 2017 into a new folder."""
    categories = _categories(COCO_CATEGORIES)
    panoptic_categories = [
        {
            **category,
            'isthing': isthing,
            'color': [category['id'] * f % 256 for f in (67, 131, 197)],
        }
        for names, isthing in ((COCO_CATEGORIES, 1), (COCO_STUFF, 0))
        for category in sorted(_categories(names), key=lambda category: category['id'])
    ]
    (folder / 'annotations').mkdir()
    for split, count in settings.splits():
        (folder / f'{split}2017').mkdir()
        pictures = folder / 'annotations' / f'panoptic_{split}2017'
        pictures.mkdir()
        images, annotations, panoptic = [], [], []
        for index in range(count):
            # COCO has images without an object, which data pipelines must endure
            scene = settings.draw(split, index, empty=index % 8 == 7)
            image_id = index + 1
            name = f'{image_id:012d}'
            height, width = scene.segment_ids.shape
            write_image(folder / f'{split}2017' / f'{name}.jpg', scene.image)
            images.append(
                {
                    'license': 1,
                    'file_name': f'{name}.jpg',
                    'height': height,
                    'width': width,
                    'id': image_id,
                }
            )
            for number, (kind, mask) in enumerate(scene.instances(), start=1):
                annotations.append(
                    dict(
                        id=image_id * 1000 + number,
                        image_id=image_id,
                        **coco_annotation(kind, mask),
                    )
                )
            picture, infos = panoptic_annotation(scene)
            write_image(pictures / f'{name}.png', picture)
            panoptic.append(
                {'image_id': image_id, 'file_name': f'{name}.png', 'segments_info': infos}
            )
        content = {
            'info': {'description': 'Drawn scenes in the layout of COCO 2017', 'version': '1.0'},
            'licenses': [
                {'id': 1, 'name': 'Apache-2.0', 'url': 'https://www.apache.org/licenses/'}
            ],
            'images': images,
        }
        for task, of_task, names in (
            ('instances', annotations, categories),
            ('panoptic', panoptic, panoptic_categories),
        ):
            write_json(
                folder / 'annotations' / f'{task}_{split}2017.json',
                {**content, 'annotations': of_task, 'categories': names},
            )


def _categories(by_supercategory):
    return [
        {'supercategory': supercategory, 'id': category_id, 'name': name}
        for supercategory, names in by_supercategory.items()
        for category_id, name in names.items()
    ]


def imagenet_subjects():
    """Return the names of the objects that are classes of ImageNet."""
    return [name for name, kind in KINDS.items() if kind.synset]


def write_imagenet(folder, settings):
    """Write class folders of ImageNet's into a new folder, the classes in turns."""
    subjects = imagenet_subjects()
    for split, count in settings.splits():
        for index in range(count):
            subject = subjects[index % len(subjects)]
            synset = KINDS[subject].synset
            number = {'train': f'{synset}_{index + 1}', 'val': f'ILSVRC2012_val_{index + 1:08d}'}
            (folder / split / synset).mkdir(parents=True, exist_ok=True)
            scene = settings.draw(split, index, subject=subject)
            write_image(folder / split / synset / f'{number[split]}.JPEG', scene.image)


WRITERS = {'ade20k': write_ade20k, 'coco': write_coco, 'imagenet': write_imagenet}
# As the configs of OpenMMLab name them below data/
FOLDERS = {'ade20k': 'ade', 'coco': 'coco', 'imagenet': 'imagenet'}


def make_sample_data(names, out, settings, overwrite=False):
    """Write sample data sets; what the same settings made before is left as it is.

    A data set is written aside and moved into place when it is complete. Everything is checked
    before anything is written.

    Args:
        names (list[str]): Keys of ``WRITERS``.
        out (str | Path): Folder that gets a folder for each data set: ade, coco, imagenet.
        settings (SampleSettings): Number and size of the images, seed.
        overwrite (bool): Whether to replace sample data, whatever settings made them. Other data
            are never replaced.

    Returns:
        list[tuple[Path, bool]]: Folder of each data set, and whether it was written.

    Raises:
        ValueError: A setting is out of range.
        FileExistsError: A folder has other content.
        OSError: A folder cannot be written.
    """
    settings.check()
    num_classes = len(imagenet_subjects())
    if 'imagenet' in names and min(settings.num_train, settings.num_val) < num_classes:
        raise ValueError(
            f'imagenet needs num_train and num_val of at least {num_classes}, an image of each '
            f'class, but they are {settings.num_train} and {settings.num_val}'
        )
    folders = []
    for name in names:
        folder = Path(out) / FOLDERS[name]
        content = {'made_by': MADE_BY, 'dataset': name, 'version': DRAWING_VERSION}
        content.update(settings._asdict())
        folders.append((name, folder, content, _must_write(folder, content, overwrite)))
    for name, folder, content, must_write in folders:
        if must_write:
            _write_dataset(WRITERS[name], folder, settings, content)
    return [(folder, must_write) for _, folder, _, must_write in folders]


def _must_write(folder, content, overwrite):
    """Return False where the content is there already; raise FileExistsError where other is."""
    if not folder.exists() or not any(folder.iterdir()):
        return True
    try:
        found = json.loads((folder / SETTINGS_FILE).read_text())
        recognised = found['made_by'] == MADE_BY
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        recognised = False
    if not recognised:
        raise FileExistsError(
            f'{folder} holds data that are no sample data, and is left alone: '
            'choose another folder (--out)'
        )
    if overwrite:
        return True
    changed = [
        f'{k} {found.get(k)} instead of {v}' for k, v in content.items() if found.get(k) != v
    ]
    if changed:
        raise FileExistsError(
            f'{folder} holds sample data made with {", ".join(changed)}: '
            'overwrite them (--overwrite) or choose another folder (--out)'
        )
    return False


def _write_dataset(write, folder, settings, content):
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{folder.name}-', dir=folder.parent) as temporary:
        new, old = Path(temporary) / 'new', Path(temporary) / 'old'
        new.mkdir()
        write(new, settings)
        write_json(new / SETTINGS_FILE, content)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
