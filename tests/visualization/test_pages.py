"""Pages of predictions: nothing cut off, whatever the names and the images."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData

from kat_mm.visualization.pages import Panel, save_page
from kat_mm.visualization.predictions import Classes
from kat_mm.visualization.segmentation import plot_segmentation


def pages_edge(path) -> int:
    """Pixels that are not white within 2 of an edge."""
    page = cv2.imread(str(path))
    edges = page[:, :2], page[:, -2:], page[:2].swapaxes(0, 1), page[-2:].swapaxes(0, 1)
    return sum(int((edge < 255).any(axis=-1).sum()) for edge in edges)


@pytest.mark.parametrize(
    ('count', 'name'), [(150, 'class number {}'), (12, 'a name of many words, number {}'), (1, '')]
)
def test_a_legend_fits_the_page(tmp_path, count, name):
    classes = Classes([name.format(i) for i in range(count)])
    image = np.full((60, 80, 3), 255, np.uint8)
    titles = 'truth', 'a model with a title that is longer than its column'
    row = {title: Panel(image) for title in titles}
    save_page([row], range(count), classes, tmp_path / 'page.png', 'Somebody, CC BY 4.0')
    assert pages_edge(tmp_path / 'page.png') == 0


@pytest.mark.parametrize('size', [(20, 400), (400, 20)])
def test_rows_are_as_high_as_their_images(tmp_path, size):
    row = dict(image=Panel(np.zeros((*size, 3), np.uint8)))
    save_page([row, row], [], Classes(), tmp_path / 'page.png')
    page = cv2.imread(str(tmp_path / 'page.png'))
    black = (page < 50).all(axis=-1)
    wide, high = black.any(axis=0).sum(), black[:, 160].sum()
    assert wide > 250 if size[1] > size[0] else high > 2 * 500
    assert len(page) < high + 220  # titles and legend, and no empty space of a square


class Frames:
    metainfo = dict(classes=('road',), palette=[[0, 0, 255]])

    def __init__(self, path, labels):
        self.sample = SimpleNamespace(img_path=str(path), gt_sem_seg=PixelData(data=labels))

    def __getitem__(self, index):
        return dict(data_samples=self.sample)


def test_what_is_unlabelled_has_stripes_and_a_place_in_the_legend(tmp_path):
    cv2.imwrite(str(tmp_path / 'image.png'), np.full((60, 80, 3), 255, np.uint8))
    labels = torch.zeros(1, 60, 80, dtype=torch.long)
    pages = []
    for label in (0, 255):
        labels[:, 30:] = label
        data = Frames(tmp_path / 'image.png', labels.clone())
        found = SimpleNamespace(pred_sem_seg=PixelData(data=torch.zeros_like(labels)))
        plot_segmentation({'KAT': [found]}, data, [0], tmp_path / 'page.png')
        pages.append(cv2.imread(str(tmp_path / 'page.png')))
    assert pages[0].shape == pages[1].shape
    truth = pages[1][:, 320:640]
    # Stripes at half of black, and the legend has one entry more.
    assert (np.abs(truth.astype(int) - 127) < 8).all(axis=-1).sum() > 500
    legends = [(page[-40:] < 250).any(axis=-1).sum() for page in pages]
    assert legends[1] > legends[0] + 50
