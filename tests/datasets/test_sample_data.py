import hashlib
import json

import cv2
import numpy as np
import pytest

from kat_mm.datasets import sample_data
from kat_mm.datasets.sample_data import (
    COCO_CATEGORIES,
    COCO_STUFF,
    FOLDERS,
    KINDS,
    SETTINGS,
    WRITERS,
    SampleSettings,
    coco_annotation,
    draw_scene,
    imagenet_subjects,
    make_sample_data,
    polygons_of,
    rle_of,
)

SMALL = SampleSettings(num_train=12, num_val=10, width=96, height=72, seed=0)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('sample')
    make_sample_data(list(WRITERS), out, SMALL)
    return out


def hashes(folder):
    """Return the content's hash of every file by its path in the folder."""
    files = (path for path in folder.rglob('*') if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).digest() for p in files}


def coco_of(data, split):
    return json.loads((data / f'coco/annotations/instances_{split}2017.json').read_text())


def decode(annotation, height, width):
    """Return the mask of an annotation as pycocotools reads it."""
    mask_utils = pytest.importorskip('pycocotools.mask')
    rle = mask_utils.frPyObjects(annotation['segmentation'], height, width)
    if isinstance(rle, list):
        rle = mask_utils.merge(rle)
    return mask_utils.decode(rle).astype(bool), mask_utils.toBbox(rle)


@pytest.mark.parametrize('setting', SETTINGS)
def test_every_pixel_of_a_scene_belongs_to_a_segment(setting):
    scene = draw_scene(np.random.default_rng(0), 90, 60, setting)
    assert scene.image.shape == (60, 90, 3) and scene.image.dtype == np.uint8
    assert scene.segment_ids.shape == (60, 90)
    assert scene.segment_ids.max() < len(scene.segments)
    assert set(scene.segments) <= set(KINDS)
    assert scene.image.std() > 20


@pytest.mark.parametrize('subject', imagenet_subjects())
def test_subject_shows_and_is_the_only_class_of_imagenet(subject):
    for seed in range(3):
        setting = KINDS[subject].settings[0]
        scene = draw_scene(np.random.default_rng(seed), 128, 96, setting, subject)
        assert [s for s in scene.segments if KINDS[s].synset] == [subject]
        assert (scene.segment_ids == scene.segments.index(subject)).mean() > 0.02


def test_empty_scene_has_no_instances():
    for seed, setting in enumerate(SETTINGS):
        scene = draw_scene(np.random.default_rng(seed), 90, 60, setting, empty=True)
        assert scene.instances() == []


@pytest.mark.parametrize('seed', range(4))
def test_pycocotools_gets_the_drawn_masks_back(seed):
    scene = draw_scene(np.random.default_rng(seed), 160, 120, 'street')
    assert scene.instances()
    for kind, mask in scene.instances():
        annotation = coco_annotation(kind, mask)
        decoded, box = decode(annotation, 120, 160)
        assert (decoded & mask).sum() / (decoded | mask).sum() > 0.9
        assert annotation['area'] == decoded.sum()
        assert annotation['bbox'] == box.tolist()
        if kind.iscrowd:
            np.testing.assert_array_equal(decoded, mask)


@pytest.mark.parametrize('seed', range(3))
def test_polygons_and_rle_of_scattered_pixels_are_exact(seed):
    mask = np.random.default_rng(seed).random((23, 31)) < 0.3
    polygons, filled = polygons_of(mask)
    assert (filled & mask).sum() == mask.sum()
    np.testing.assert_array_equal(decode({'segmentation': polygons}, 23, 31)[0], filled)
    np.testing.assert_array_equal(decode({'segmentation': rle_of(mask)}, 23, 31)[0], mask)


@pytest.mark.parametrize('value', [False, True])
def test_rle_of_a_uniform_mask(value):
    mask = np.full((4, 5), value)
    np.testing.assert_array_equal(decode({'segmentation': rle_of(mask)}, 4, 5)[0], mask)


def test_ade20k_has_an_annotation_of_the_same_size_for_each_image(data):
    root = data / 'ade' / 'ADEChallengeData2016'
    labels = set()
    for split, directory, count in (('train', 'training', 12), ('val', 'validation', 10)):
        images = sorted((root / 'images' / directory).iterdir())
        annotations = sorted((root / 'annotations' / directory).iterdir())
        names = [f'ADE_{split}_{i:08d}' for i in range(1, count + 1)]
        assert [p.name for p in images] == [f'{name}.jpg' for name in names]
        assert [p.name for p in annotations] == [f'{name}.png' for name in names]
        for image_file, annotation_file in zip(images, annotations, strict=True):
            image = cv2.imread(str(image_file), cv2.IMREAD_UNCHANGED)
            annotation = cv2.imread(str(annotation_file), cv2.IMREAD_UNCHANGED)
            assert annotation.dtype == np.uint8 and annotation.ndim == 2
            assert image.shape == (*annotation.shape, 3)
            labels.update(np.unique(annotation).tolist())
    # other, building, sky, tree, road, grass, person, mountain, car, water
    assert {0, 2, 3, 5, 7, 10, 13, 17, 21, 22} <= labels
    assert max(labels) <= 150


def test_images_of_a_data_set_differ_in_size(data):
    sizes = {(image['width'], image['height']) for image in coco_of(data, 'train')['images']}
    assert len(sizes) > 6
    assert all(81 <= width <= 111 and 61 <= height <= 83 for width, height in sizes)


@pytest.mark.parametrize('split, count', [('train', 12), ('val', 10)])
def test_coco_annotations_agree_with_the_drawing(data, split, count):
    content = coco_of(data, split)
    assert {'info', 'licenses', 'images', 'annotations', 'categories'} == set(content)
    assert [image['id'] for image in content['images']] == list(range(1, count + 1))
    ids = [annotation['id'] for annotation in content['annotations']]
    assert len(set(ids)) == len(ids) > count
    annotated = {annotation['image_id'] for annotation in content['annotations']}
    assert annotated < {image['id'] for image in content['images']}
    for index, image in enumerate(content['images']):
        height, width = image['height'], image['width']
        file = data / 'coco' / f'{split}2017' / image['file_name']
        assert cv2.imread(str(file)).shape == (height, width, 3)
        drawn = SMALL.draw(split, index, empty=image['id'] not in annotated).instances()
        found = [a for a in content['annotations'] if a['image_id'] == image['id']]
        for (kind, mask), annotation in zip(drawn, found, strict=True):
            assert annotation['category_id'] == kind.coco
            assert isinstance(annotation['segmentation'], dict if kind.iscrowd else list)
            decoded, _ = decode(annotation, height, width)
            assert (decoded & mask).sum() / (decoded | mask).sum() > 0.9


def test_pycocotools_loads_the_annotations(data):
    coco = pytest.importorskip('pycocotools.coco')
    loaded = coco.COCO(data / 'coco' / 'annotations' / 'instances_train2017.json')
    assert len(loaded.getCatIds()) == 80
    assert {1, 3} <= {annotation['category_id'] for annotation in loaded.anns.values()}
    assert {0, 1} == {annotation['iscrowd'] for annotation in loaded.anns.values()}


@pytest.mark.parametrize('split', ['train', 'val'])
def test_panoptic_pictures_agree_with_their_json_and_with_the_objects(data, split):
    folder = data / 'coco/annotations'
    panoptic = json.loads((folder / f'panoptic_{split}2017.json').read_text())
    things = {c['id'] for c in panoptic['categories'] if c['isthing']}
    instances = coco_of(data, split)
    assert panoptic['images'] == instances['images']
    found, regions = [], set()
    for image, annotation in zip(panoptic['images'], panoptic['annotations'], strict=True):
        assert annotation['image_id'] == image['id']
        picture = cv2.imread(str(folder / f'panoptic_{split}2017' / annotation['file_name']))
        assert picture.shape == (image['height'], image['width'], 3)
        ids = picture[..., ::-1].astype(int) @ [1, 256, 65536]
        infos = annotation['segments_info']
        assert set(np.unique(ids)) - {0} == {info['id'] for info in infos}
        assert (ids == 0).mean() < 0.2
        for info in infos:
            y, x = np.nonzero(ids == info['id'])
            assert info['area'] == len(x)
            assert info['bbox'] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            if info['category_id'] in things:
                found.append((image['id'], info['category_id'], info['iscrowd']))
            else:
                key = (image['id'], info['category_id'])
                assert key not in regions
                regions.add(key)
    objects = [(a['image_id'], a['category_id'], a['iscrowd']) for a in instances['annotations']]
    assert found == objects and len({category for _, category in regions}) > 4


def test_panoptic_categories_are_those_of_mmdet():
    from mmdet.datasets import CocoPanopticDataset

    names = [name for part in COCO_CATEGORIES.values() for name in part.values()]
    stuff = {key: name for part in COCO_STUFF.values() for key, name in part.items()}
    names += [stuff[key] for key in sorted(stuff)]
    assert tuple(names) == tuple(CocoPanopticDataset.METAINFO['classes'])


def test_imagenet_has_the_same_classes_in_both_splits(data):
    synsets = sorted(KINDS[name].synset for name in imagenet_subjects())
    assert len(set(synsets)) == 10
    for split, count in (('train', 12), ('val', 10)):
        root = data / 'imagenet' / split
        assert sorted(path.name for path in root.iterdir()) == synsets
        files = list(root.glob('*/*.JPEG'))
        assert len(files) == count
        assert all(cv2.imread(str(file)) is not None for file in files)
        start = 'ILSVRC2012_val_' if split == 'val' else 'n'
        assert all(file.name.startswith(start) for file in files)


def test_labels_are_those_of_mmseg():
    ade = pytest.importorskip('mmseg.datasets').ADE20KDataset.METAINFO['classes']
    other_names = {'bird': 'animal', 'sheep': 'animal', 'crowd': 'person', 'lighthouse': 'tower'}
    other_names['barn'] = 'building'
    for name, kind in KINDS.items():
        if kind.ade20k:
            assert ade[kind.ade20k - 1] == other_names.get(name, name)


def test_categories_are_those_of_mmdet():
    classes = pytest.importorskip('mmdet.datasets').CocoDataset.METAINFO['classes']
    categories = {i: name for names in COCO_CATEGORIES.values() for i, name in names.items()}
    assert tuple(categories[i] for i in sorted(categories)) == classes
    assert all(categories[kind.coco] for kind in KINDS.values() if kind.coco)


def test_same_settings_give_the_same_bytes_and_another_seed_other_ones(data, tmp_path):
    make_sample_data(['ade20k'], tmp_path / 'again', SMALL)
    assert hashes(tmp_path / 'again' / 'ade') == hashes(data / 'ade')
    make_sample_data(['ade20k'], tmp_path / 'other', SMALL._replace(seed=1))
    first, other = hashes(data / 'ade'), hashes(tmp_path / 'other' / 'ade')
    assert first.keys() == other.keys()
    assert not set(first.values()) & set(other.values())


@pytest.mark.parametrize('name', WRITERS)
def test_larger_data_set_begins_with_the_images_of_the_smaller(data, tmp_path, name):
    make_sample_data([name], tmp_path, SMALL._replace(num_train=13, num_val=11))
    small, large = hashes(data / FOLDERS[name]), hashes(tmp_path / FOLDERS[name])
    images = [file for file in small if not file.endswith('.json')]
    assert len(large) == len(small) + (2 if name == 'imagenet' else 4)
    assert all(large[file] == small[file] for file in images)


def test_train_and_val_differ(data):
    found = hashes(data / 'ade')
    assert len(set(found.values())) == len(found)


def test_same_settings_write_nothing_again(data):
    before = {path: path.stat().st_mtime_ns for path in data.rglob('*')}
    results = make_sample_data(list(WRITERS), data, SMALL)
    assert results == [(data / folder, False) for folder in FOLDERS.values()]
    assert before == {path: path.stat().st_mtime_ns for path in data.rglob('*')}


def test_other_settings_are_refused_unless_overwritten(tmp_path):
    few = SampleSettings(num_train=2, num_val=1, width=40, height=32)
    make_sample_data(['ade20k'], tmp_path, few)
    before = hashes(tmp_path)
    with pytest.raises(FileExistsError, match='num_train 2 instead of 1'):
        make_sample_data(['ade20k', 'coco'], tmp_path, few._replace(num_train=1))
    assert hashes(tmp_path) == before
    make_sample_data(['ade20k'], tmp_path, few._replace(num_train=1), overwrite=True)
    assert len(list((tmp_path / 'ade').rglob('*.jpg'))) == 2


@pytest.mark.parametrize('content', [None, 'no json', '[]', '{"dataset": "real"}'])
def test_data_of_others_are_never_overwritten(tmp_path, content):
    (tmp_path / 'ade').mkdir()
    (tmp_path / 'ade' / 'precious.jpg').write_text('a real image')
    if content:
        (tmp_path / 'ade' / 'sample_data.json').write_text(content)
    before = hashes(tmp_path)
    with pytest.raises(FileExistsError, match='no sample data'):
        make_sample_data(['ade20k'], tmp_path, SMALL, overwrite=True)
    assert hashes(tmp_path) == before


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / 'ade').mkdir()
    settings = SampleSettings(num_train=1, num_val=1, width=40, height=32)
    assert make_sample_data(['ade20k'], tmp_path, settings) == [(tmp_path / 'ade', True)]


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError(28, 'No space left on device')])
def test_failed_run_leaves_what_was_there(tmp_path, monkeypatch, error):
    few = SampleSettings(num_train=2, num_val=1, width=40, height=32)
    make_sample_data(['ade20k'], tmp_path, few)
    before = hashes(tmp_path)
    write_image, written = sample_data.write_image, []

    def fail_at_third(path, image):
        if len(written) == 2:
            raise error
        written.append(path)
        write_image(path, image)

    monkeypatch.setattr(sample_data, 'write_image', fail_at_third)
    with pytest.raises(type(error) if isinstance(error, OSError) else error):
        make_sample_data(['ade20k'], tmp_path, few._replace(seed=1), overwrite=True)
    assert written
    assert hashes(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ['ade']


@pytest.mark.parametrize(
    'wrong', [{'num_train': 0}, {'num_val': -1}, {'width': 8}, {'height': 10**6}, {'seed': -1}]
)
def test_wrong_setting_is_named(tmp_path, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f'{name} must be from .* but it is {value}'):
        make_sample_data(['ade20k'], tmp_path, SampleSettings(**wrong))
    assert not list(tmp_path.iterdir())


def test_imagenet_needs_an_image_of_each_class(tmp_path):
    with pytest.raises(ValueError, match='at least 10'):
        make_sample_data(['ade20k', 'imagenet'], tmp_path, SMALL._replace(num_val=9))
    assert not list(tmp_path.iterdir())
