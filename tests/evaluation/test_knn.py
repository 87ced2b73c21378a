import math
import re

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from tools_runner import ROOT, run_tool

from kat_mm.evaluation import knn
from kat_mm.evaluation.knn import knn_scores
from kat_mm.sample_data import SampleSettings, make_sample_data


@pytest.mark.parametrize('k', [1, 5, 30])
def test_scores_equal_the_definition_image_by_image(k, monkeypatch):
    monkeypatch.setattr(knn, '_CHUNK', 3)
    torch.manual_seed(0)
    known, queries = (F.normalize(torch.randn(n, 6).double(), dim=1) for n in (30, 7))
    labels = torch.randint(4, (30,))
    scores = knn_scores(known, labels, queries, 4, k, temperature=0.5)
    for query, row in zip(queries, scores, strict=True):
        cosines = [float(query @ one) for one in known]
        nearest = sorted(range(30), key=lambda i: -cosines[i])[:k]
        want = [
            sum(math.exp(cosines[i] / 0.5) for i in nearest if labels[i] == label)
            for label in range(4)
        ]
        assert row.tolist() == pytest.approx(want)


def test_more_neighbours_than_images_are_refused():
    with pytest.raises(ValueError, match='k=4 must lie from 1 to 3'):
        knn_scores(torch.eye(3), torch.arange(3), torch.eye(3), 3, k=4)


def test_the_tool_classifies_images_by_those_that_are_known(tmp_path):
    make_sample_data(['imagenet'], tmp_path, SampleSettings(20, 10, 64, 64))
    root = tmp_path / 'imagenet'
    options = [f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'val', 'test')]
    args = ['knn.py', ROOT / 'configs/kat_t_in1k_sample.py', '--work-dir', tmp_path / 'work']
    options = ['--cfg-options', 'model.backbone.arch=tiny', *options]
    result = run_tool(*args, '--k', 3, *options)
    assert result.status == 0, result.stderr
    found = re.search(r'3 nearest of 20: top-1 ([\d.]+) %, top-5 ([\d.]+) %', result.stdout)
    assert found and 0 <= float(found[1]) <= float(found[2]) <= 100
    result = run_tool(*args, '--k', 99, *options)
    assert result.status == 1 and '--k 99 must lie from 1 to 20' in result.last_line


def test_wrapped_training_images_are_taken_once_and_as_they_are(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    from knn import known_images

    def images(name):
        return dict(type='ImageNet', data_prefix=name, pipeline=[dict(type='RandomFlip')])

    joined = dict(type='ConcatDataset', datasets=[images('a'), images('b')])
    val = dict(images('val'), pipeline=[dict(type='CenterCrop')])
    cfg = Config(
        dict(
            train_dataloader=dict(dataset=dict(type='RepeatDataset', times=3, dataset=joined)),
            val_dataloader=dict(batch_size=4, dataset=dict(type='RepeatDataset', dataset=val)),
        )
    )
    loader = known_images(cfg)
    assert loader['batch_size'] == 4 and loader['dataset']['type'] == 'ConcatDataset'
    for name, dataset in zip('ab', loader['dataset']['datasets'], strict=True):
        assert dataset == dict(images(name), pipeline=[dict(type='CenterCrop')])
    assert cfg.train_dataloader.dataset.dataset.datasets[0].pipeline[0].type == 'RandomFlip'
