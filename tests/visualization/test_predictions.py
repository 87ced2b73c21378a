"""What is to be seen in pictures of predictions."""

import numpy as np
import pytest

from kat_mm.visualization.predictions import (
    Classes,
    Shape,
    draw_labels,
    draw_scores,
    draw_shapes,
    draw_title,
    side_by_side,
)

CLASSES = Classes(('red', 'blue'), [[255, 0, 0], [0, 0, 255]])
IMAGE = np.full((480, 640, 3), 100, np.uint8)


def has_color(pixels, color) -> bool:
    return (pixels == color).all(axis=-1).any()


def test_a_label_map_tints_its_regions_and_outlines_them():
    labels = np.zeros((480, 640), np.uint8)
    labels[:, 320:] = 1
    picture = draw_labels(IMAGE, labels, CLASSES)
    assert (picture[200, 100] == (177, 50, 50)).all()
    assert (picture[200, 500] == (50, 50, 177)).all()
    assert (picture[200, 320] == 255).all()


def test_the_legend_has_the_classes_that_are_seen_and_no_others():
    picture = draw_labels(IMAGE, np.zeros((480, 640), np.uint8), CLASSES)
    legend = picture[480:]
    assert has_color(legend, (255, 0, 0)) and not has_color(legend, (0, 0, 255))


@pytest.mark.parametrize('grey', [0, 128, 255])
def test_what_is_unlabelled_is_hatched_on_any_image_and_no_class(grey):
    labels = np.zeros((480, 640), np.uint8)
    labels[240:] = 255
    picture = draw_labels(np.full((480, 640, 3), grey, np.uint8), labels, CLASSES)
    shades = np.unique(picture[250:470].reshape(-1, 3), axis=0)
    # Between the stripes the image is as it was.
    assert (shades == grey).all(axis=1).any() and (shades.std(axis=1) == 0).all()
    assert np.ptp(shades[:, 0].astype(int)) > 100
    assert CLASSES.name(255) == CLASSES.name(2) == 'unlabelled'


def test_an_object_has_its_mask_its_outline_and_its_box():
    mask = np.zeros((480, 640), bool)
    mask[100:200, 100:300] = True
    picture = draw_shapes(IMAGE, [Shape(1, 0.9, (80, 90, 320, 210), mask)], CLASSES)
    assert (picture[150, 200] == (50, 50, 177)).all()
    assert (picture[100, 200] == (0, 0, 255)).all()
    assert (picture[210, 200] == (0, 0, 255)).all()
    assert (picture[400, 500] == 100).all()


def test_writing_stays_within_the_picture_at_every_edge():
    boxes = [(0, 0, 20, 20), (630, 0, 640, 10), (620, 470, 640, 480), (-30, 200, 5, 300)]
    for box in boxes:
        inside = draw_shapes(IMAGE, [Shape(0, 0.5, box)], CLASSES)[:480]
        plate = (inside == (255, 0, 0)).all(axis=-1)
        columns = plate.any(axis=0).sum()
        # The plate of "red 0.50", and not a part of it.
        assert columns > 60, (box, columns)


def test_small_images_are_enlarged_and_a_name_that_has_no_room_is_shortened():
    small = np.zeros((32, 32, 3), np.uint8)
    classes = Classes(('a name that is much longer than any picture could have room for ' * 3,))
    picture = draw_scores(small, np.array([1.0]), classes)
    assert picture.shape[1] == 480
    strip = picture[480:]
    number = strip[:, -60:]
    assert (number < 100).any()  # the score is there nonetheless


def test_a_narrow_image_gets_room_for_its_writing():
    narrow = np.full((1500, 20, 3), 100, np.uint8)
    labels = np.zeros((1500, 20), np.uint8)
    pictures = [
        draw_labels(narrow, labels, CLASSES),
        draw_shapes(narrow, [Shape(0, 0.5, (2, 50, 18, 90))], CLASSES),
        draw_scores(narrow, np.array([0.6, 0.4]), CLASSES),
        draw_title(narrow, 'airliner'),
    ]
    assert [picture.shape[1] for picture in pictures] == [240, 240, 240, 248]
    for picture in pictures[:3]:
        assert (picture[700:900, :20] < 200).any() and (picture[700:900, 20:] == 255).all()
        assert (picture[1500:, 60:] < 100).any()  # a name, which 20 pixels had cut


def test_names_of_objects_do_not_cover_each_other():
    shapes = [Shape(0, 0.9 - 0.01 * i, (100, 100 + i, 140, 300)) for i in range(5)]
    inside = draw_shapes(IMAGE, shapes, CLASSES)[:480]
    once = draw_shapes(IMAGE, shapes[:1], CLASSES)[:480]

    def plates(picture):
        return (picture[:, 145:160] == (255, 0, 0)).all(axis=-1).sum()

    assert plates(inside) == pytest.approx(5 * plates(once), rel=0.1)


def test_of_objects_without_room_for_all_names_the_best_are_named():
    box = (0, 0, 640, 40)  # as high as two names
    bad, good = Shape(1, 0.4, box), Shape(0, 0.9, box)
    inside = draw_shapes(IMAGE, [bad] * 30 + [good] * 30, CLASSES)[5:55, 5:40]
    assert has_color(inside, (255, 0, 0)) and not has_color(inside, (0, 0, 255))


def test_a_name_longer_than_the_picture_is_shortened_and_its_score_is_not():
    classes = Classes(['a very long name ' * 9], [[255, 0, 0]])
    scores = [
        draw_shapes(IMAGE, [Shape(0, score, (0, 100, 50, 150))], classes)[80:100, 600:]
        for score in (0.51, 0.88)
    ]
    assert (scores[0] != scores[1]).any()


def test_a_legend_of_fixed_height_says_how_many_classes_have_no_room():
    names = [f'class number {i}' for i in range(90)]
    labels = np.arange(480)[:, None] // 6 + np.zeros((1, 640), int)
    pictures = [
        draw_labels(IMAGE, given, Classes(names), legend_rows=2) for given in (labels, labels % 2)
    ]
    assert pictures[0].shape == pictures[1].shape
    assert len(draw_labels(IMAGE, labels, Classes(names))) > len(pictures[0])
    assert (pictures[0][480:] != pictures[1][480:]).any()


def test_the_truth_of_a_classifier_is_marked():
    with_truth = draw_scores(IMAGE, np.array([0.6, 0.4]), CLASSES, truth=1)
    assert has_color(with_truth, (178, 223, 190))
    assert not has_color(draw_scores(IMAGE, np.array([0.6, 0.4]), CLASSES), (178, 223, 190))


def test_pictures_stand_side_by_side_below_their_titles():
    row = side_by_side(dict(truth=IMAGE, prediction=IMAGE[:300]))
    assert row.shape[1] == 2 * 648 and row.shape[0] > 480
    assert (row[:30, :648] < 100).any() and (row[:30, 648:] < 100).any()


def test_wide_pictures_stand_below_each_other():
    wide = np.full((100, 800, 3), 100, np.uint8)
    column = side_by_side(dict(truth=wide, prediction=wide))
    assert column.shape[1] == 808 and len(column) > 2 * 100


def test_colours_without_a_palette_stay_the_same():
    for names in (None, ('a',) * 8):
        assert Classes(names).color(7) == Classes(names).color(7)


def test_classes_chosen_from_a_known_data_set_have_its_colours():
    known = dict(classes=('a', 'b', 'c'), palette=[[90, 1, 1], [1, 90, 2], [1, 3, 90]])
    of_mmdet = dict(classes=('c', 'new'), palette=known['palette'])  # of all, whatever was chosen
    found = Classes.of(of_mmdet, known)
    assert found.color(0) == (1, 3, 90) and found.color(1) == Classes().color(1)
    own = Classes.of(dict(classes=('c', 'new'), palette=[[80, 8, 8], [9, 90, 9]]), known)
    assert [own.color(0), own.color(1)] == [(80, 8, 8), (9, 90, 9)]
    assert Classes.of({}, known).color(1) == (1, 90, 2)


@pytest.mark.parametrize('number', [4, 19, 133])
def test_of_colours_that_look_alike_the_first_stays(number):
    palette = np.random.default_rng(0).integers(0, 256, (number, 3)).tolist()
    palette[2] = [value - 3 if value > 3 else value + 3 for value in palette[0]]
    classes = Classes([str(i) for i in range(number)], palette)
    colors = np.array([classes.color(i) for i in range(number)])
    assert tuple(colors[0]) == tuple(palette[0])
    seen = colors * np.sqrt((0.897, 1.761, 0.342))
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2) + 1000 * np.eye(number)
    assert apart.min() >= (60 if number < 10 else 25)


def test_the_name_of_a_segment_lies_on_it():
    mask = np.zeros((600, 600), bool)
    mask[:, 500:] = mask[500:] = True  # its mean lies in between
    classes = Classes(['a'], [[255, 0, 0]])
    picture = draw_shapes(np.zeros((600, 600, 3), np.uint8), [Shape(0, mask=mask)], classes)
    plate = (picture[:600] == (255, 0, 0)).all(-1) & ~mask
    thick = 4  # the outline
    assert not plate[: 500 - thick, : 500 - thick].any()
