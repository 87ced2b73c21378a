import json

import cv2
import numpy as np
import pytest
from small_samples import SMALL, decode

from kat_mm.sample_data.coco_categories import COCO_CATEGORIES, COCO_STUFF
from kat_mm.sample_data.kinds import KINDS
from kat_mm.sample_data.layouts import imagenet_subjects


def coco_of(data, split):
    return json.loads((data / f'coco/annotations/instances_{split}2017.json').read_text())


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
