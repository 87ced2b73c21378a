"""What tools/test.py makes of a config."""

import copy

import pytest
from mmengine.config import Config
from mmengine.config import ConfigDict as D

from kat_mm.engine.configs import read_config
from kat_mm.engine.testing import augment, check_names, write_predictions, write_submission
from kat_mm.errors import UserError


def types(pipeline):
    return [step['type'] for step in pipeline]


def test_any_task_writes_its_predictions_to_one_file():
    for name in ('kat_t_in1k_sample', 'kat_t_upernet_sample', 'kat_t_mask_rcnn_sample'):
        cfg = read_config(name)
        own = copy.deepcopy(cfg.test_evaluator)
        write_predictions(cfg, 'found.pkl')
        first, *_, last = cfg.test_evaluator
        assert first == (own[0] if isinstance(own, list) else own)
        assert last == dict(type='DumpResults', out_file_path='found.pkl')


def test_a_submission_needs_no_truth():
    cfg = read_config('kat_s_upernet_ade20k')
    write_submission(cfg, 'out')
    dataset = cfg.test_dataloader.dataset
    assert types(dataset.pipeline) == ['LoadImageFromFile', 'Resize', 'PackSegInputs']
    assert 'seg_map_path' not in dataset.data_prefix and dataset.test_mode
    (metric,) = cfg.test_evaluator
    assert metric.format_only and metric.output_dir == 'out'


def test_a_submission_of_objects_takes_the_list_of_images_of_its_split():
    cfg = read_config('kat_s_mask_rcnn_coco')
    cfg.test_dataloader.dataset.ann_file = 'annotations/image_info_test-dev2017.json'
    write_submission(cfg, 'out')
    (metric,) = cfg.test_evaluator
    assert metric.ann_file == 'data/coco/annotations/image_info_test-dev2017.json'
    assert metric.outfile_prefix == 'out/predictions'


def test_cityscapes_gets_its_own_numbers(monkeypatch):
    monkeypatch.setattr('kat_mm.engine.testing.is_installed', lambda name: False)
    with pytest.raises(UserError, match='pip install cityscapesscripts'):
        write_submission(read_config('kat_s_upernet_cityscapes'), 'out')
    monkeypatch.setattr('kat_mm.engine.testing.is_installed', lambda name: True)
    cfg = read_config('kat_s_upernet_cityscapes')
    write_submission(cfg, 'out')
    (metric,) = cfg.test_evaluator
    assert metric == dict(
        type='CityscapesMetric', keep_results=True, format_only=True, output_dir='out'
    )


def test_a_metric_without_a_format_is_named():
    with pytest.raises(UserError, match='Accuracy has no format of a test server'):
        write_submission(read_config('kat_t_in1k_sample'), 'out')


@pytest.mark.parametrize(
    ('name', 'model'),
    [
        ('kat_t_in1k_sample', 'AverageClsScoreTTA'),
        ('kat_t_upernet_sample', 'SegTTAModel'),
        ('kat_t_faster_rcnn_bccd', 'DetTTAModel'),
    ],
)
def test_without_a_pipeline_of_ones_own_images_are_mirrored(name, model):
    cfg = read_config(name)
    before = types(cfg.test_dataloader.dataset.pipeline)
    module = copy.deepcopy(cfg.model)
    augment(cfg)
    assert cfg.model.type == model and cfg.model.module == module
    *steps, last = cfg.test_dataloader.dataset.pipeline
    assert [*types(steps), last.transforms[1][0].type] == before
    assert [flip.prob for flip in last.transforms[0]] == [0.0, 1.0]


def test_a_pipeline_of_ones_own_is_taken():
    cfg = read_config('kat_s_upernet_ade20k')
    augment(cfg)
    assert cfg.test_dataloader.dataset.pipeline == cfg.tta_pipeline


def test_every_data_set_inside_of_a_wrapper_is_mirrored():
    cfg = read_config('kat_t_upernet_sample')
    inner = cfg.test_dataloader.dataset
    repeated = D(type='RepeatDataset', times=2, dataset=copy.deepcopy(inner))
    cfg.test_dataloader.dataset = D(type='ConcatDataset', datasets=[inner, repeated])
    augment(cfg)
    first, second = cfg.test_dataloader.dataset.datasets
    assert types(first.pipeline)[-1] == types(second.dataset.pipeline)[-1] == 'TestTimeAug'


def test_masks_cannot_be_merged():
    with pytest.raises(UserError, match='mmdet merges boxes alone'):
        augment(read_config('kat_t_mask_rcnn_sample'))


def test_a_library_without_a_model_for_it_is_named():
    cfg = Config(D(model=D(type='A'), default_scope='mmpose'))
    with pytest.raises(UserError, match='there is no model of mmpose'):
        augment(cfg)


class Images(list):
    """A data set of these files."""

    def get_data_info(self, index):
        return dict(img_path=self[index])


def test_label_images_that_would_be_one_file_are_refused():
    cfg = Config(dict(test_evaluator=[dict(type='IoUMetric', output_dir='out')]))
    check_names(cfg, Images(['a/0.jpg', 'a/1.jpg', 'a/0.jpg']))
    images = Images(['a/0.jpg', 'b/0.png'])
    with pytest.raises(UserError, match=r'--out out: the label images of a/0.jpg and b/0.png wou'):
        check_names(cfg, images)
    check_names(Config(dict(test_evaluator=dict(type='IoUMetric'))), images)
