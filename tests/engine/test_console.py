"""What reaches the terminal of a run, and what its log file has beside it."""

import sys
import warnings

import pytest
from mmengine.logging import MMLogger

from kat_mm.engine.console import quiet_dependencies, quiet_terminal


@pytest.fixture
def logger(tmp_path):
    logger = MMLogger(name='console', logger_name='console', log_file=str(tmp_path / 'run.log'))
    yield logger
    logger.handlers[1].close()


def test_the_file_has_what_the_terminal_leaves_out(logger, tmp_path, capsys):
    logger.handlers[0].setStream(sys.stdout)
    quiet_terminal(logger)
    logger.info('Config:\nmodel = dict()')
    logger.info('parameter group: 3 tensors')
    logger.warning('"FileClient" will be deprecated in future.')
    logger.info('Iter(train) [1/2]')
    logger.warning('the loss is not finite')
    printed = capsys.readouterr().out.splitlines()
    assert [line.rpartition(' - ')[2] for line in printed] == [
        'Iter(train) [1/2]',
        'the loss is not finite',
    ]
    file = (tmp_path / 'run.log').read_text()
    for said in ('model = dict()', 'parameter group', 'FileClient', 'Iter(train)', 'not finite'):
        assert said in file


def test_warnings_that_ask_for_nothing_are_left_out_and_others_are_not():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        quiet_dependencies()
        warnings.warn('The draw is False, it means that the hook will not work', stacklevel=1)
        warnings.warn('the learning rate is 0', stacklevel=1)
    assert [str(w.message) for w in caught] == ['the learning rate is 0']


def test_coco_prints_its_results_and_not_its_progress(capsys):
    coco = pytest.importorskip('pycocotools.coco')
    cocoeval = pytest.importorskip('pycocotools.cocoeval')
    quiet_dependencies()
    try:
        truth = coco.COCO()
        truth.dataset = dict(
            images=[dict(id=1, width=8, height=8)],
            categories=[dict(id=1, name='cell')],
            annotations=[
                dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 4, 4], area=16, iscrowd=0)
            ],
        )
        truth.createIndex()
        found = truth.loadRes([dict(image_id=1, category_id=1, bbox=[0, 0, 4, 4], score=0.9)])
        metric = cocoeval.COCOeval(truth, found, 'bbox')
        metric.evaluate()
        metric.accumulate()
        metric.summarize()
    finally:
        del coco.print, cocoeval.print
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 and all('@[ IoU=' in line for line in lines)
    assert lines[0].endswith('1.000')
