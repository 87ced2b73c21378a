import json
import zlib

import pytest
from PIL import Image

from kat_mm.checks.coco import check_coco
from kat_mm.datasets.voc import voc_to_coco
from kat_mm.errors import UserError
from kat_mm.export.model import read_image

XML = """
<annotation>
  <filename>elsewhere.png</filename>
  <size><width>40</width><height>30</height><depth>3</depth></size>
  {objects}
</annotation>
"""
OBJECT = """
<object>
  <name>{name}</name><difficult>{difficult}</difficult>
  <bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>
</object>
"""


def obj(name, *corners, difficult=0):
    return OBJECT.format(*corners, name=name, difficult=difficult)


@pytest.fixture
def root(tmp_path):
    """Two splits of one and two images, and one of VOC's lists for a class."""
    for folder in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (tmp_path / folder).mkdir(parents=True)
    objects = {
        'a': obj('cell', 1, 1, 40, 30) + obj('worm', 5, 6, 7, 9, difficult=1),
        'b': '',
        'c': obj('worm', 3, 4, 10, 12) + obj('worm', 8, 8, 8, 8),
    }
    for name, text in objects.items():
        (tmp_path / 'Annotations' / f'{name}.xml').write_text(XML.format(objects=text))
        Image.new('RGB', (40, 30)).save(tmp_path / 'JPEGImages' / f'{name}.jpg')
    main = tmp_path / 'ImageSets' / 'Main'
    (main / 'train.txt').write_text('a\nb\n\n')
    (main / 'val.txt').write_text('c\n')
    (main / 'worm_val.txt').write_text('c  1\n')
    return tmp_path


def read(root, split):
    return json.loads((root / 'annotations' / f'{split}.json').read_text())


def test_pixels_counted_from_one_become_coordinates(root):
    voc_to_coco(root)
    content = read(root, 'train')
    whole, worm = content['annotations']
    # The first box is the image, which COCO gives by its corner and its size.
    assert whole['bbox'] == [0, 0, 40, 30] and whole['area'] == 1200
    assert worm['bbox'] == [4, 5, 3, 4] and worm['area'] == 12


def test_images_categories_and_difficult_objects(root):
    report = voc_to_coco(root, classes=('worm', 'cell'))
    content = read(root, 'train')
    assert [image['file_name'] for image in content['images']] == ['a.jpg', 'b.jpg']
    assert {(image['width'], image['height']) for image in content['images']} == {(40, 30)}
    assert content['categories'] == [dict(id=1, name='worm'), dict(id=2, name='cell')]
    assert [(a['category_id'], a['iscrowd']) for a in content['annotations']] == [(2, 0), (1, 1)]
    assert report['train'] == dict(images=2, boxes=dict(worm=1, cell=1), left_out=[], outside=[])


def test_classes_are_sorted_unless_they_are_given(root):
    voc_to_coco(root)
    assert [category['name'] for category in read(root, 'val')['categories']] == ['cell', 'worm']


def test_boxes_without_area_are_left_out_and_named(root):
    assert voc_to_coco(root)['val'] == dict(
        images=1, boxes=dict(cell=0, worm=1), left_out=['c.xml'], outside=[]
    )
    assert len(read(root, 'val')['annotations']) == 1


def test_lists_of_single_classes_are_no_splits(root):
    assert set(voc_to_coco(root)) == {'train', 'val'}
    assert set(voc_to_coco(root, splits=['val'])) == {'val'}


def test_the_result_passes_the_check_of_coco(root):
    voc_to_coco(root)
    images = {'a.jpg', 'b.jpg', 'c.jpg'}
    for split in ('train', 'val'):
        path = root / 'annotations' / f'{split}.json'
        check_coco(path, ('cell', 'worm'), images, 'images', with_masks=False)


def rename(root, old, new, split='train'):
    """Give an image of a split another name."""
    for folder, suffix in (('Annotations', '.xml'), ('JPEGImages', '.jpg')):
        (root / folder / (old + suffix)).rename(root / folder / (new + suffix))
    path = root / 'ImageSets' / 'Main' / f'{split}.txt'
    path.write_text(path.read_text().replace(f'{old}\n', f'{new}\n'))


@pytest.mark.parametrize('name', ['a photo', 'a 1', ' a', 'a -1'])
def test_names_of_images_may_have_spaces(root, name):
    name = name.strip()
    rename(root, 'a', name)
    assert voc_to_coco(root)['train']['images'] == 2
    assert [image['file_name'] for image in read(root, 'train')['images']] == [
        f'{name}.jpg',
        'b.jpg',
    ]


def test_a_split_of_one_image_that_ends_in_a_number_is_no_list_of_a_class(root):
    rename(root, 'c', 'c 1', 'val')
    assert set(voc_to_coco(root)) == {'train', 'val'}


def test_sizes_come_from_the_images(root):
    path = root / 'Annotations' / 'b.xml'
    path.write_text('<annotation></annotation>')
    voc_to_coco(root)
    assert {(image['width'], image['height']) for image in read(root, 'train')['images']} == {
        (40, 30)
    }


def test_a_box_outside_of_its_image_is_named(root):
    text = XML.format(objects=obj('worm', 1, 1, 42, 30) + obj('worm', 1, 1, 41, 31))
    (root / 'Annotations' / 'b.xml').write_text(text)
    assert voc_to_coco(root)['train']['outside'] == ['b.xml']


def turn(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (40, 30)).save(root / 'JPEGImages' / 'c.jpg', exif=exif)


def break_xml(root):
    (root / 'Annotations' / 'c.xml').write_text('<annotation><size>')


def break_box(root):
    (root / 'Annotations' / 'c.xml').write_text(XML.format(objects=obj('worm', 'x', 1, 2, 3)))


@pytest.mark.parametrize(
    'damage, message',
    [
        (break_xml, "c.xml is no annotation of Pascal VOC's"),
        (break_box, "c.xml is no annotation of Pascal VOC's: .*'x'"),
        (lambda root: (root / 'Annotations' / 'c.xml').unlink(), 'c.xml does not exist'),
        (lambda root: (root / 'JPEGImages' / 'c.jpg').unlink(), '1 of 1 images .* the first c'),
        (lambda root: (root / 'JPEGImages/c.jpg').write_bytes(b''), r'c.jpg is empty \(0 bytes\)'),
        (lambda root: (root / 'JPEGImages/c.jpg').write_bytes(b'text'), 'c.jpg is no image'),
        (turn, 'c.xml says that the image has 40x30 pixels, but .*c.jpg has 30x40'),
        (
            lambda root: Image.new('RGB', (80, 60)).save(root / 'JPEGImages' / 'c.jpg'),
            'c.xml says that the image has 40x30 pixels, but .*c.jpg has 80x60',
        ),
        (
            lambda root: (root / 'JPEGImages' / 'c.PNG').touch(),
            'several images c: c.PNG, c.jpg; keep one',
        ),
        (
            lambda root: (root / 'ImageSets/Main/val.txt').write_text('c\nc\n'),
            'lists 1 images more than once, the first c',
        ),
        (
            lambda root: (root / 'ImageSets/Main/val.txt').write_bytes(b'\xef\xbb\xbfc\n'),
            'val.txt begins with a byte-order mark; save it as UTF-8',
        ),
        (
            lambda root: (root / 'ImageSets/Main/val.txt').write_text('c\n', encoding='utf-16'),
            'val.txt is in UTF-16; save it as UTF-8',
        ),
        (
            lambda root: (root / 'ImageSets/Main/val.txt').write_text('d e\n'),
            '1 of 1 images of .*val.txt are missing .* the first d e',
        ),
        (
            lambda root: (root / 'ImageSets/Main/val.txt').rename(root / 'x'),
            'val.txt does not exist',
        ),
    ],
)
def test_damage_is_named_and_nothing_is_written(root, damage, message):
    damage(root)
    with pytest.raises(UserError, match=message):
        voc_to_coco(root, splits=['train', 'val'])
    assert not (root / 'annotations').exists()


def test_classes_that_leave_objects_out_are_refused(root):
    with pytest.raises(UserError, match='has objects of the classes cell, worm, .*: cell'):
        voc_to_coco(root, classes=['cell'])


def test_another_layout_is_refused(tmp_path):
    with pytest.raises(UserError, match='Annotations does not exist; Pascal VOC has'):
        voc_to_coco(tmp_path)


def test_annotations_that_is_a_file_is_refused(root):
    (root / 'annotations').touch()
    with pytest.raises(UserError, match='cannot write to .*annotations: File exists'):
        voc_to_coco(root)


@pytest.mark.parametrize('corner', ['nan', 'inf', '1e400'])
def test_corners_that_are_no_numbers_are_refused(root, corner):
    xml = XML.format(objects=obj('cell', 1, 1, corner, 30))
    (root / 'Annotations/a.xml').write_text(xml)
    with pytest.raises(UserError, match=r'a.xml is no annotation .*: a box has the corners'):
        voc_to_coco(root)


def test_entities_of_xml_neither_read_files_nor_fill_the_memory(root):
    (root / 'secret').write_text('secret')
    laughs = ''.join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    for entities, name in (
        (f'<!ENTITY x SYSTEM "file://{root}/secret">', '&x;'),
        (f'<!ENTITY a0 "ha">{laughs}', '&a9;'),
    ):
        xml = XML.format(objects=obj(name, 1, 1, 4, 4)).strip()
        (root / 'Annotations/a.xml').write_text(f'<!DOCTYPE annotation [{entities}]>{xml}')
        with pytest.raises(UserError, match=r'a.xml is no annotation'):
            voc_to_coco(root)


def test_a_link_does_not_have_other_folders_written(root, tmp_path_factory):
    home = tmp_path_factory.mktemp('home')
    (home / 'train.json').write_text('precious')
    (root / 'annotations').symlink_to(home)
    with pytest.raises(UserError, match=f'is a link to {home}, outside of .*; remove the link'):
        voc_to_coco(root)
    assert (home / 'train.json').read_text() == 'precious'


def test_an_image_of_too_many_pixels_is_named(root):
    path = root / 'JPEGImages/a.png'
    (root / 'JPEGImages/a.jpg').unlink()
    Image.new('RGB', (40, 30)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = (20_000).to_bytes(4, 'big') * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, 'big')
    path.write_bytes(content)
    with pytest.raises(UserError, match=r'a\.png is no image: it has too many pixels'):
        voc_to_coco(root)
    with pytest.raises(UserError, match=r'a\.png is no image that can be read: .*400000000 pixels'):
        read_image(path)
