import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from kat_mm.checks.every_file import read_every_file


@pytest.fixture
def scenes(tmp_path):
    """Six images and label images of two of three classes, in two parts."""
    import mmseg.datasets  # noqa: F401

    for part in ('a', 'b'):
        for folder in ('images', 'labels'):
            (tmp_path / part / folder).mkdir(parents=True)
        for number in range(3):
            image = np.full((4, 6, 3), number, np.uint8)
            cv2.imwrite(str(tmp_path / part / f'images/{number}.png'), image)
            labels = np.array([[0, 1] * 3] * 4, np.uint8)
            cv2.imwrite(str(tmp_path / part / f'labels/{number}.png'), labels)
    return tmp_path


def config(root):
    parts = [
        dict(
            type='mmseg.BaseSegDataset',
            data_root=str(root / part),
            img_suffix='.png',
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            metainfo=dict(classes=('a', 'b', 'c')),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='mmseg.LoadAnnotations'),
                dict(type='RandomFlip', prob=1.0),
            ],
        )
        for part in 'ab'
    ]
    dataset = dict(type='ConcatDataset', datasets=parts)
    return Config(dict(train_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dataset))))


@pytest.mark.parametrize('num_workers', [0, 2])
def test_all_damage_is_reported_at_once(scenes, num_workers):
    (scenes / 'a/images/0.png').write_bytes(b'')
    (scenes / 'a/images/2.png').write_bytes(b'text')
    cv2.imwrite(str(scenes / 'b/labels/1.png'), np.zeros((3, 6), np.uint8))
    cv2.imwrite(str(scenes / 'b/images/2.png'), np.zeros((4, 6, 3), np.uint16))
    first, second = read_every_file(config(scenes), 'train', num_workers)
    assert first.samples == second.samples == 3
    empty, text = first.damaged
    assert 'a/images/0.png is empty (0 bytes)' in empty
    assert 'cannot load the sample' in text and 'a/images/2.png' in text
    (smaller,) = second.damaged
    assert 'b/labels/1.png has 6x3 pixels' in smaller
    assert second.many_bits == [str(scenes / 'b/images/2.png')]
    assert first.absent == second.absent == ['c']


def damage(path, kind):
    """Change an image in the middle, behind which decoders go on."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if kind == 'zeros':
        content[middle : middle + 200] = bytes(200)
    elif kind == 'hole':
        del content[middle : middle + 200]
    elif kind == 'end':
        content[middle : middle + 2] = b'\xff\xd9'
    path.write_bytes(content)


@pytest.mark.parametrize('progressive', [False, True])
@pytest.mark.parametrize('num_workers', [0, 2])
def test_jpegs_that_are_damaged_in_the_middle_are_named(scenes, num_workers, progressive):
    rng = np.random.default_rng(0)
    for number, kind in enumerate(('zeros', 'hole', 'end')):
        for part in 'ab':
            pixels = np.kron(rng.integers(0, 256, (20, 30, 3)), np.ones((8, 8, 1)))
            # Recognised by its content, as everywhere.
            path = scenes / part / f'images/{number}.png'
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(path, 'JPEG', progressive=progressive)
            labels = np.zeros((160, 240), np.uint8)
            cv2.imwrite(str(scenes / part / f'labels/{number}.png'), labels)
        damage(path, kind)
    first, second = read_every_file(config(scenes), 'train', num_workers)
    assert first.damaged == []
    assert len(second.damaged) == 3
    for number, problem in enumerate(second.damaged):
        path = scenes / f'b/images/{number}.png'
        assert problem.startswith(f'{path} is damaged') and 'Corrupt JPEG data: ' in problem


def test_sound_data_and_splits_without_data_have_no_damage(scenes):
    assert [report.damaged for report in read_every_file(config(scenes), 'train')] == [[], []]
    assert list(read_every_file(config(scenes), 'val')) == []
