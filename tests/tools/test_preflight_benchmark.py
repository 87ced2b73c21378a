"""What benchmarks/preflight.py draws is what it says, and both sides of its comparison read it."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture
def preflight(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import preflight

    return preflight


class Results(list):
    """Takes what a measuring process would send."""

    send = list.append


def test_annotations_of_the_size_of_cocos(preflight, tmp_path):
    folder = tmp_path / 'coco'
    preflight.draw_coco(folder, images=40, objects=600)
    content = json.loads((folder / 'train.json').read_text())
    assert len(content['images']) == len(list((folder / 'train').iterdir())) == 40
    assert len(content['annotations']) == 600
    polygons = [a['segmentation'][0] for a in content['annotations'] if not a['iscrowd']]
    # COCO's training set has 29 points for an object.
    assert sum(map(len, polygons)) / 2 / len(polygons) == pytest.approx(29, rel=0.1)
    results = Results()
    preflight.measure('coco', folder, ('check', 'load'), results)
    assert results[0]['seconds'].keys() == {'check', 'load'} and results[0]['peak_gb'] > 0


def test_folders_of_the_size_of_imagenets(preflight, tmp_path):
    folder = tmp_path / 'imagenet'
    preflight.draw_imagenet(folder, train=2500, val=1000)
    assert len(list(folder.glob('train/*/*.JPEG'))) == 2500
    assert len(list(folder.glob('val/*'))) == 1000
    results = Results()
    preflight.measure('imagenet', folder, ('check', 'load'), results)
    assert results[0]['seconds'].keys() == {'check', 'load'}
