"""Pictures of a test set, as the hook writes and shows them."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, PixelData
from PIL import Image

from kat_mm.engine import PicturesHook
from kat_mm.errors import UserError


class Data:
    METAINFO = dict(classes=('cell', 'platelet'), palette=[[255, 0, 0], [0, 0, 255]])
    metainfo = dict(classes=('platelet',), palette=[[255, 0, 0], [0, 0, 255]])


class Model(torch.nn.Module):
    data_preprocessor = SimpleNamespace(to_rgb=True)


@pytest.fixture
def runner():
    shown = []
    visualizer = SimpleNamespace(show=lambda *args: shown.append(args))
    loader = SimpleNamespace(dataset=Data())
    return SimpleNamespace(
        test_dataloader=loader, model=Model(), visualizer=visualizer, shown=shown
    )


def segmented(path):
    labels = torch.zeros(1, 480, 480, dtype=torch.long)
    truth = labels.clone()
    truth[:, 240:] = 255
    return BaseDataElement(
        metainfo=dict(img_path=path),
        pred_sem_seg=PixelData(data=labels),
        gt_sem_seg=PixelData(data=truth),
    )


def test_truth_and_prediction_stand_side_by_side_and_equal_names_are_kept_apart(tmp_path, runner):
    paths = []
    for folder in ('a', 'b'):
        paths.append(tmp_path / folder / 'x.png')
        paths[-1].parent.mkdir()
        cv2.imwrite(str(paths[-1]), np.full((480, 480, 3), 100, np.uint8))
    hook = PicturesHook(out_dir=str(tmp_path / 'out'))
    hook.after_test_iter(runner, 0, {}, [segmented(str(path)) for path in paths])
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['x-1.png', 'x.png']
    picture = cv2.imread(str(tmp_path / 'out' / 'x.png'))[..., ::-1]
    assert picture.shape[1] == 2 * 488 and not runner.shown
    # The colour of the class that was chosen, blue; what is unlabelled is grey in the truth alone.
    middle = picture.shape[0] - picture.shape[0] // 3
    blue = np.abs(picture[middle].astype(int) - (50, 50, 177)).max(axis=-1) < 4
    assert blue[488:].sum() > 400 and blue[:488].sum() < 20


def test_images_without_files_are_those_of_the_batch(tmp_path, runner):
    sample = BaseDataElement()
    sample.set_field(torch.tensor([1.0]), 'pred_score')
    sample.set_field(torch.tensor([0]), 'gt_label')
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[0] = 200  # blue, of BGR
    hook = PicturesHook(out_dir=str(tmp_path), show=True, wait_time=0.5)
    hook.after_test_iter(runner, 0, dict(inputs=[image, image]), [sample, sample])
    assert sorted(p.name for p in tmp_path.iterdir()) == ['image-1.png', 'image.png']
    picture = cv2.imread(str(tmp_path / 'image.png'))
    assert (picture == (200, 0, 0)).all(axis=-1).sum() == 480 * 480
    assert [(name, seconds) for _, name, seconds in runner.shown] == [
        ('image.png', 0.5),
        ('image-1.png', 0.5),
    ]


def test_pictures_of_formats_without_full_colour_are_png_and_one_that_cannot_be_written_is_named(
    tmp_path, runner
):
    for name in ('a.gif', 'b.pgm'):
        Image.new('L', (480, 480)).save(tmp_path / name)
    samples = [segmented(str(tmp_path / name)) for name in ('a.gif', 'b.pgm')]
    PicturesHook(out_dir=str(tmp_path / 'out')).after_test_iter(runner, 0, {}, samples)
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['a.png', 'b.png']
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=r'cannot write .*file/a.png'):
        PicturesHook(out_dir=str(tmp_path / 'file')).after_test_iter(runner, 0, {}, samples)
