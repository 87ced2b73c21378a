"""Files of predictions, read as others read them."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from kat_mm.engine.results import Results
from kat_mm.engine.sources import Image
from kat_mm.errors import UserError
from kat_mm.visualization.predictions import Classes

CLASSES = Classes(('cell', 'platelet'), [[255, 0, 0], [0, 0, 255]])
PIXELS = np.zeros((6, 8, 3), np.uint8)


def read(path):
    return json.loads(path.read_text())


def detected():
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 1:4, 2:7] = True
    instances = InstanceData(
        bboxes=torch.tensor([[2.0, 1.0, 7.0, 4.0], [0.0, 0.0, 2.0, 2.0]]),
        scores=torch.tensor([0.75, 0.1]),
        labels=torch.tensor([1, 0]),
        masks=masks,
    )
    return BaseDataElement(pred_instances=instances)


def test_objects_are_cocos_results(tmp_path):
    coco = pytest.importorskip('pycocotools.coco')
    results = Results(tmp_path, 'detection', CLASSES, 0.5)
    results.add(Image('a.jpg', PIXELS), detected())
    results.close()
    found = coco.COCO(str(tmp_path / 'coco_images.json')).loadRes(
        str(tmp_path / 'coco_results.json')
    )
    (one,) = found.loadAnns(found.getAnnIds())  # the other is below the threshold
    assert one['bbox'] == [2, 1, 5, 3] and one['score'] == 0.75
    assert found.loadCats(one['category_id'])[0]['name'] == 'platelet'
    assert found.loadImgs(one['image_id'])[0]['file_name'] == 'a.jpg'
    expected = np.zeros((6, 8), np.uint8)
    expected[1:4, 2:7] = 1
    np.testing.assert_array_equal(found.annToMask(one), expected)


def test_objects_get_the_numbers_that_a_server_expects(tmp_path):
    info = tmp_path / 'image_info.json'
    info.write_text(
        json.dumps(
            dict(
                images=[dict(id=397133, file_name='a.jpg')],
                categories=[dict(id=90, name='platelet'), dict(id=7, name='cell')],
            )
        )
    )
    results = Results(tmp_path / 'out', 'detection', CLASSES, 0.0, info)
    results.add(Image('deep/a.jpg', PIXELS), detected())
    results.close()
    found = read(tmp_path / 'out' / 'coco_results.json')
    assert [(one['image_id'], one['category_id']) for one in found] == [(397133, 90), (397133, 7)]
    with pytest.raises(UserError, match='names no image b.jpg'):
        results.add(Image('b.jpg', PIXELS), detected())


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('no json', 'is no file of COCO'),
        ('{"images": [], "categories": [{"id": 1, "name": "cell"}]}', "no category 'platelet'"),
    ],
)
def test_a_file_of_other_images_or_classes_is_refused(tmp_path, content, message):
    (tmp_path / 'info.json').write_text(content)
    with pytest.raises(UserError, match=message):
        Results(tmp_path / 'out', 'detection', CLASSES, 0.0, tmp_path / 'info.json')


def test_label_maps_are_label_images(tmp_path):
    labels = np.arange(48).reshape(1, 6, 8) % 2
    sample = BaseDataElement(pred_sem_seg=PixelData(data=torch.from_numpy(labels)))
    results = Results(tmp_path, 'segmentation', CLASSES)
    results.add(Image('deep/a.jpg', PIXELS), sample)
    results.close()
    (entry,) = read(tmp_path / 'results.json')
    assert entry['share'] == dict(cell=0.5, platelet=0.5)
    written = cv2.imread(str(tmp_path / entry['labels']), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(written, labels[0])


def test_panoptic_maps_are_in_cocos_format(tmp_path):
    panoptic = np.full((6, 8), 2)  # void, the number of classes
    panoptic[:2] = 1000
    panoptic[2:4] = 2000
    panoptic[4, :4] = 1
    sample = BaseDataElement(pred_panoptic_seg=PixelData(sem_seg=torch.from_numpy(panoptic[None])))
    results = Results(tmp_path, 'panoptic', CLASSES)
    results.add(Image('deep/a.jpg', PIXELS), sample)
    results.close()
    (entry,) = read(tmp_path / 'results.json')
    (submitted,) = read(tmp_path / 'panoptic.json')['annotations']
    assert set(submitted) == {'image_id', 'file_name', 'segments_info'}  # as its server takes it
    assert submitted.items() <= entry.items() and submitted['file_name'] == 'deep/a.png'
    areas = {one['id']: (one['category'], one['area']) for one in entry['segments_info']}
    assert sorted(areas.values()) == [('cell', 16), ('cell', 16), ('platelet', 4)]
    written = cv2.imread(str(tmp_path / 'panoptic' / entry['file_name']))[..., ::-1].astype(int)
    numbers = written @ [1, 256, 256**2]  # as panopticapi's rgb2id
    for number, (_, area) in areas.items():
        assert (numbers == number).sum() == area
    assert (numbers == 0).sum() == 12


def test_classes_are_told_with_their_scores(tmp_path):
    sample = BaseDataElement()
    sample.set_field(torch.tensor([0.25, 0.75]), 'pred_score')
    results = Results(tmp_path, 'classification', CLASSES)
    results.add(Image('a.jpg', PIXELS), sample)
    results.close()
    (entry,) = read(tmp_path / 'results.json')
    assert (entry['label'], entry['name'], entry['score']) == (1, 'platelet', 0.75)
    assert [one['name'] for one in entry['top5']] == ['platelet', 'cell']


def write_frames(folder, sizes, rate=5.0):
    results = Results(folder, 'segmentation', CLASSES)
    for number, size in enumerate(sizes):
        image = Image(f'film_{number}.jpg', PIXELS, video=('film', rate))
        results.add_picture(image, np.full((*size, 3), 40 * number, np.uint8))
    results.close()


def test_frames_become_a_video_of_one_size(tmp_path):
    write_frames(tmp_path, [(65, 97), (80, 97), (48, 40)])
    video = cv2.VideoCapture(str(tmp_path / 'pictures' / 'film.mp4'))
    assert video.get(cv2.CAP_PROP_FPS) == 5
    frames = [video.read()[1] for _ in range(3)]
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 3  # as its codec wants it
    np.testing.assert_allclose([f.mean() for f in frames], [0, 40, 80], atol=6)


def test_a_video_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match='film.mp4, a video of 96 x 64 pixels with 90000 frames/s'):
        write_frames(tmp_path, [(64, 96)], rate=90000)
