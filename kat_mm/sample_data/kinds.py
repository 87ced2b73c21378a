"""What a scene may hold, in the vocabulary of each data set."""

from typing import NamedTuple


class Kind(NamedTuple):
    """What a segment is, in the vocabulary of each data set.

    Args:
        ade20k: Label in the annotation images of ADE20K (SceneParse150); 0 is "other".
        coco: COCO category id; None for what COCO does not detect.
        coco_stuff: COCO panoptic category id of a region; None for what is an object,
            or in no class.
        iscrowd: Whether COCO marks it as a group that is not told apart.
        synset: WordNet id of the ImageNet class that shows it.
        settings: Where it stands when it is the subject of an ImageNet image.
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
