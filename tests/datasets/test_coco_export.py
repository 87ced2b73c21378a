import json

import numpy as np
import pytest
from PIL import Image

from kat_mm.datasets.coco_export import prepare_coco_export
from kat_mm.errors import UserError


def square(first, last, category, image=0):
    x1, y1, x2, y2 = first, first, last, last
    return dict(
        image_id=image,
        category_id=category,
        bbox=[x1, y1, x2 - x1, y2 - y1],
        area=(last - first) ** 2,
        segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]],
        iscrowd=0,
    )


def write(root, split, objects, names=('house', 'window', 'house', 'car')):
    folder = root / split
    folder.mkdir(parents=True)
    content = dict(
        categories=[
            dict(id=i, name=name, supercategory='house' if i else 'none')
            for i, name in enumerate(names)
        ],
        images=[dict(id=0, file_name='0000.jpg', width=12, height=10)],
        annotations=[dict(one, id=i) for i, one in enumerate(objects)],
    )
    (folder / '_annotations.coco.json').write_text(json.dumps(content))
    Image.new('RGB', (12, 10)).save(folder / '0000.jpg')


def change(root, **values):
    """Change values of the image of ``train``, or those of the file by a function."""
    path = root / 'train/_annotations.coco.json'
    content = json.loads(path.read_text())
    content['images'][0].update(values)
    path.write_text(json.dumps(content))


def test_root_category_goes_objects_count_from_1_and_small_ones_lie_on_large_ones(tmp_path):
    write(tmp_path, 'train', [square(3, 5, 1), square(1, 9, 2)])
    write(tmp_path, 'val', [])
    written = prepare_coco_export(tmp_path)
    assert written['train'] == dict(images=1, objects=dict(window=1, house=1, car=0))
    for split, ids in (('train', [1, 2]), ('val', [])):
        content = json.loads((tmp_path / f'annotations/{split}.json').read_text())
        assert [one['id'] for one in content['annotations']] == ids
        assert [(one['id'], one['name']) for one in content['categories']] == [
            (1, 'window'),
            (2, 'house'),
            (3, 'car'),
        ]
    want = np.full((10, 12), 255)
    want[1:9, 1:9] = 1
    want[3:5, 3:5] = 0
    found = np.array(Image.open(tmp_path / 'labels/train/0000.png'))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, want)
    assert (np.array(Image.open(tmp_path / 'labels/val/0000.png')) == 255).all()


def test_a_second_call_writes_the_same(tmp_path):
    write(tmp_path, 'train', [square(3, 5, 1), square(1, 9, 2)])
    prepare_coco_export(tmp_path)
    first = (tmp_path / 'annotations/train.json').read_bytes()
    prepare_coco_export(tmp_path)
    assert (tmp_path / 'annotations/train.json').read_bytes() == first


def test_a_folder_that_is_no_export_is_refused(tmp_path):
    with pytest.raises(UserError, match='has no folder with _annotations.coco.json'):
        prepare_coco_export(tmp_path)
    write(tmp_path, 'train', [])
    (tmp_path / 'train/_annotations.coco.json').write_text('{"images": []}')
    with pytest.raises(UserError, match=r'is no annotation file of COCO \(KeyError'):
        prepare_coco_export(tmp_path)


def test_splits_of_other_classes_and_classes_of_one_name_are_refused(tmp_path):
    write(tmp_path, 'train', [square(1, 9, 0), square(1, 9, 2)])
    with pytest.raises(UserError, match="'house' is there twice"):
        prepare_coco_export(tmp_path)
    write(tmp_path, 'val', [], names=('house', 'window', 'house', 'bus'))
    with pytest.raises(UserError, match='categories of train and val differ'):
        prepare_coco_export(tmp_path)


def test_an_object_of_no_category_is_refused(tmp_path):
    write(tmp_path, 'train', [square(1, 9, 7)])
    with pytest.raises(UserError, match='category 7 is not listed'):
        prepare_coco_export(tmp_path)


# Folders of strangers


def test_links_do_not_have_other_folders_written_or_removed(tmp_path):
    victim = tmp_path / 'home/train'
    victim.mkdir(parents=True)
    (victim / 'precious').touch()
    (tmp_path / 'home/train.json').write_text('precious')
    for place, target in (
        ('labels', 'home'),
        ('annotations', 'home'),
        ('labels/train', 'home/train'),
        ('annotations/train.json', 'home/train.json'),
    ):
        root = tmp_path / place.replace('/', '-')
        write(root, 'train', [square(1, 9, 1)])
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).symlink_to(tmp_path / target)
        before = sorted(root.rglob('*'))
        with pytest.raises(UserError, match=rf'is a link to {tmp_path}/home.*; remove the link'):
            prepare_coco_export(root)
        assert sorted(root.rglob('*')) == before
    assert (victim / 'precious').exists()
    assert (tmp_path / 'home/train.json').read_text() == 'precious'


def test_a_folder_that_is_a_link_itself_is_prepared(tmp_path):
    write(tmp_path / 'disk', 'train', [square(1, 9, 1)])
    (tmp_path / 'data').symlink_to(tmp_path / 'disk')
    prepare_coco_export(tmp_path / 'data')
    assert (tmp_path / 'disk/labels/train/0000.png').exists()


@pytest.mark.parametrize(
    'values, said',
    [
        (dict(width=24), 'says that 0000.jpg has 24 x 10 pixels, but it has 12 x 10'),
        (dict(width=10, height=12), 'has 10 x 12 pixels'),
        (dict(width=10**6, height=10**6), 'has 1000000 x 1000000 pixels'),
        (dict(width='12'), "has '12' x 10 pixels"),
        (dict(height=None), 'has 12 x None pixels'),
        (dict(file_name='0001.jpg'), "has no image '0001.jpg'"),
        (dict(file_name='..'), "has no image '..'"),
        (dict(file_name=5), 'has no image 5'),
        (dict(file_name='a\0b.jpg'), 'has no image'),
        (dict(file_name='_annotations.coco.json'), 'is no image'),
    ],
)
def test_images_that_are_others_than_is_said_are_refused(tmp_path, values, said):
    write(tmp_path, 'train', [square(1, 9, 1)])
    change(tmp_path, **values)
    with pytest.raises(UserError, match=said):
        prepare_coco_export(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['train']


@pytest.mark.parametrize('name', ['0000.png', '0000.jpg'])
def test_images_whose_label_images_would_be_one_file_are_refused(tmp_path, name):
    write(tmp_path, 'train', [square(1, 9, 1)])
    path = tmp_path / 'train/_annotations.coco.json'
    content = json.loads(path.read_text())
    content['images'].append(dict(content['images'][0], id=1, file_name=name))
    path.write_text(json.dumps(content))
    Image.new('RGB', (12, 10)).save(tmp_path / 'train' / name)
    with pytest.raises(UserError, match=f'lists 0000.jpg and {name}, whose label images'):
        prepare_coco_export(tmp_path)


@pytest.mark.parametrize('segmentation', [None, [], [[1, 1]], 'x', {'counts': 5, 'size': [1]}])
def test_an_object_without_a_mask_is_refused_and_what_was_there_stays(tmp_path, segmentation):
    write(tmp_path, 'train', [square(1, 9, 1)])
    prepare_coco_export(tmp_path)
    before = (tmp_path / 'labels/train/0000.png').read_bytes()
    path = tmp_path / 'train/_annotations.coco.json'
    content = json.loads(path.read_text())
    content['annotations'].append(dict(square(2, 5, 2), id=9, segmentation=segmentation))
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match='object 2 of 0000.jpg has no mask'):
        prepare_coco_export(tmp_path)
    assert (tmp_path / 'labels/train/0000.png').read_bytes() == before


def test_more_classes_than_label_images_tell_apart_are_refused(tmp_path):
    write(tmp_path, 'train', [square(1, 9, 1)], names=[f'c{i}' for i in range(300)])
    with pytest.raises(UserError, match='categories; a label image tells 255 apart'):
        prepare_coco_export(tmp_path)
