"""Annotation files as labelling tools write them in COCO's format, by the code of their exporters.

Each holds the images ``a.jpg`` and ``b.jpg`` of 40x30 pixels, and one object of the class ``cell``
in each.
"""

WIDTH, HEIGHT = 40, 30
BOX = [25, 10, 10, 12]
POLYGON = [25, 10, 35, 10, 35, 22, 25, 22]
# From column 25, row 10 on: 10 columns of 12 pixels.
RUN_LENGTHS = [25 * HEIGHT + 10, *[12, HEIGHT - 12] * 9, 12, 158]


def cvat(shape='polygon'):
    """Its exporter is Datumaro's: what its brush draws becomes run lengths, and a crowd."""
    segmentation = {
        'polygon': [[float(value) for value in POLYGON]],
        'rectangle': [],
        'brush': dict(counts=RUN_LENGTHS, size=[HEIGHT, WIDTH]),
    }[shape]
    return dict(
        licenses=[dict(name='', id=0, url='')],
        info=dict(contributor='', date_created='', description='', url='', version='', year=''),
        categories=[dict(id=1, name='cell', supercategory='')],
        images=[
            dict(
                id=number, width=WIDTH, height=HEIGHT, file_name=f'{name}.jpg', license=0,
                flickr_url='', coco_url='', date_captured=0,
            )
            for number, name in enumerate('ab', 1)
        ],
        annotations=[
            dict(
                id=number, image_id=number, category_id=1, segmentation=segmentation, area=120.0,
                bbox=[float(value) for value in BOX], iscrowd=int(shape == 'brush'),
                attributes=dict(occluded=False, rotation=0.0),
            )
            for number in (1, 2)
        ],
    )  # fmt: skip


def label_studio(shape='polygon', name='images/{}.jpg'):
    return dict(
        images=[
            dict(width=WIDTH, height=HEIGHT, id=number, file_name=name.format(letter))
            for number, letter in enumerate('ab')
        ],
        categories=[dict(id=0, name='cell')],
        annotations=[
            dict(
                id=number, image_id=number, category_id=0,
                segmentation=[[v + 1e-13 for v in POLYGON]] if shape == 'polygon' else [],
                bbox=[25.000000000000004, 10.0, 10.0, 12.0], ignore=0, iscrowd=0, area=120.0,
            )
            for number in (0, 1)
        ],
        info=dict(
            year=2026, version='1.0', description='', contributor='Label Studio', url='',
            date_created='2026-11-27 10:00:00.000000',
        ),
    )  # fmt: skip


def roboflow(root='cells'):
    """The first category has the project's name, and no object."""
    return dict(
        info=dict(
            year='2026', version='1', description='Exported from roboflow.com', contributor='',
            url='https://public.roboflow.com/object-detection/undefined',
            date_created='2026-11-27T10:00:00+00:00',
        ),
        licenses=[dict(id=1, url='https://creativecommons.org/licenses/by/4.0/', name='CC BY 4.0')],
        categories=[
            dict(id=0, name=root, supercategory='none'),
            dict(id=1, name='cell', supercategory=root),
        ],
        images=[
            dict(
                id=number, license=1, file_name=f'{name}.jpg', height=HEIGHT, width=WIDTH,
                date_captured='2026-11-27T10:00:00+00:00', extra=dict(name=f'{name}.png'),
            )
            for number, name in enumerate('ab')
        ],
        annotations=[
            dict(
                id=number, image_id=number, category_id=1, bbox=BOX, area=120,
                segmentation=[POLYGON], iscrowd=0,
            )
            for number in (0, 1)
        ],
    )  # fmt: skip


def labelme(*parts, folder='JPEGImages/'):
    """By labelme2coco.py of its examples; ``__ignore__`` of its labels is left out."""
    return dict(
        info=dict(
            description=None, url=None, version=None, year=2026, contributor=None,
            date_created='2026-11-27 10:00:00.000000',
        ),
        licenses=[dict(url=None, id=0, name=None)],
        type='instances',
        images=[
            dict(
                license=0, url=None, file_name=f'{folder}{name}.jpg', height=HEIGHT, width=WIDTH,
                date_captured=None, id=number,
            )
            for number, name in enumerate('ab')
        ],
        categories=[
            dict(supercategory=None, id=0, name='_background_'),
            dict(supercategory=None, id=1, name='cell'),
        ],
        annotations=[
            dict(
                id=number, image_id=number, category_id=1, segmentation=list(parts or [POLYGON]),
                area=120.0, bbox=[float(value) for value in BOX], iscrowd=0,
            )
            for number in (0, 1)
        ],
    )  # fmt: skip


def via():
    """VGG's Image Annotator; the area is that of the box, also of polygons."""
    return dict(
        info=dict(
            year=2026, version='1.0', contributor='',
            description='VIA project exported to COCO format using VGG Image Annotator',
            url='http://www.robots.ox.ac.uk/~vgg/software/via/',
            date_created='Fri Nov 27 2026 10:00:00 GMT+0000',
        ),
        images=[
            dict(
                id=number, width=WIDTH, height=HEIGHT, file_name=f'{name}.jpg', license=0,
                flickr_url=f'{name}.jpg', coco_url=f'{name}.jpg', date_captured='',
            )
            for number, name in enumerate('ab', 1)
        ],
        annotations=[
            dict(
                segmentation=[POLYGON], area=120, bbox=BOX, iscrowd=0, id=number, image_id=number,
                category_id=1,
            )
            for number in (1, 2)
        ],
        licenses=[dict(id=0, name='Unknown License', url='')],
        categories=[dict(supercategory='type', id=1, name='cell')],
    )  # fmt: skip
