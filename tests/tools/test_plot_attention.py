"""tools/plot_attention.py as a user runs it, and the weights that it draws."""

import runpy
import sys
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from kat_mm.backbones import KAT
from kat_mm.layers import KArAt, SoftmaxAttention
from kat_mm.visualization.attention import attention_weights, collect_attention, plot_attention

TOOL = Path(__file__).parents[2] / 'tools' / 'plot_attention.py'
ARCH = dict(embed_dims=24, num_layers=3, num_heads=3, feedforward_channels=32)
KARAT = dict(type='KArAt', rank=4, num_karat_heads=2)


@pytest.mark.parametrize('num_karat_heads', [3, 1])
@pytest.mark.parametrize('project_l1', [False, True, 'hidden'])
def test_weights_of_karat_are_its_operators(num_karat_heads, project_l1):
    torch.manual_seed(0)
    attn = KArAt(24, 3, (3, 4), 1, rank=4, num_karat_heads=num_karat_heads, project_l1=project_l1)
    x = torch.randn(2, 13, 24)
    q, k, _ = attn.project(x)
    want = attn.operator(q[:, :num_karat_heads], k[:, :num_karat_heads], None, (3, 4))
    softmax = (q @ k.mT / 8**0.5).softmax(dim=-1)
    want = torch.cat([want, softmax[:, num_karat_heads:]], dim=1)
    torch.testing.assert_close(attention_weights(attn, x, (3, 4)), want, rtol=1e-4, atol=1e-5)


def test_weights_of_softmax_sum_to_one_also_with_relative_positions():
    torch.manual_seed(0)
    attn = SoftmaxAttention(24, 3, rel_pos_size=(3, 4))
    torch.nn.init.normal_(attn.rel_pos_h)
    x = torch.randn(2, 12, 24)
    weights = attention_weights(attn, x, (3, 4))
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 3, 12))
    q, k, v = attn.project(x)
    torch.testing.assert_close(weights @ v, attn.attend(q, k, v, (3, 4)))


def test_each_block_is_noted_with_its_own_input():
    torch.manual_seed(0)
    backbone = KAT(arch=ARCH, img_size=32, patch_size=8, attn_cfg=KARAT).eval()
    images = torch.randn(2, 3, 32, 32)
    maps, grid = collect_attention(backbone, images, [0, -1])
    assert (list(maps), grid) == ([0, 2], (4, 4))
    seen = []
    backbone.blocks[2].attn.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    backbone(images)
    torch.testing.assert_close(maps[2], attention_weights(backbone.blocks[2].attn, *seen[0][:2]))
    assert all(not block.attn._forward_pre_hooks for block in backbone.blocks[:2])


@pytest.mark.parametrize(
    'block, message', [(3, 'block 3 does not exist.*0 to 2'), (0, r'attends in windows.*\[1\]')]
)
def test_blocks_that_cannot_be_drawn_are_refused(block, message):
    backbone = KAT(
        arch=ARCH,
        img_size=32,
        patch_size=8,
        window_size=2,
        global_attn_indices=(1,),
        with_cls_token=False,
        out_type='featmap',
    )
    with pytest.raises(ValueError, match=message):
        collect_attention(backbone, torch.randn(1, 3, 32, 32), [block])


def test_the_picture_has_the_shape_of_the_image_and_its_pixels_below(tmp_path):
    image = np.zeros((40, 80, 3), dtype=np.uint8)
    image[:, 40:] = 255
    weights = torch.zeros(1, 4, 4)
    weights[0, 1, 0] = 1.0
    plot_attention(image, {'m': {0: weights}}, (2, 2), 1, tmp_path / 'a.png')
    picture = mmcv.imread(tmp_path / 'a.png', channel_order='rgb').astype(int)
    black = (picture.max(axis=-1) < 5).any(axis=0).nonzero()[0]
    # The left half of the image, and that below the head's weights, but for the first patch.
    middle = picture.shape[0] // 2
    row = picture[middle + 40, :, 0]
    assert (row[: picture.shape[1] // 2] < 5).sum() > 60
    assert len(black) > 150


def test_the_picture_shows_the_weights_of_the_query(tmp_path):
    weights = torch.zeros(1, 5, 5)
    weights[0, 2, 4] = 1.0  # of the second patch: the last
    image = np.full((40, 40, 3), 127, dtype=np.uint8)
    plot_attention(image, {'m': {0: weights}}, (2, 2), 2, tmp_path / 'a.png')
    picture = mmcv.imread(tmp_path / 'a.png', channel_order='rgb').astype(int)
    # Without the scale, which has all colours, at the right.
    height, width = len(picture), picture.shape[1] - round(1.2 * 110)
    red = (picture[:, :width, 0] - picture[:, :width, 2] > 50).nonzero()
    assert len(red[0]) and red[0].min() > height / 2 and red[1].min() > 0.7 * width


@pytest.mark.parametrize(
    ('size', 'inches'), [((30, 900), (1.3, 3 * 5 + 1.2)), ((900, 30), (2.6, 3 * 1.4 + 1.2))]
)
def test_wide_images_leave_no_empty_rows_and_tall_ones_have_room_for_titles(tmp_path, size, inches):
    weights = torch.ones(2, 4, 4) / 4
    image = np.zeros((*size, 3), dtype=np.uint8)
    plot_attention(image, {'m': {0: weights}}, (2, 2), 1, tmp_path / 'a.png')
    picture = mmcv.imread(tmp_path / 'a.png')
    assert picture.shape[:2] == pytest.approx([110 * side for side in inches], abs=2)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the tool with two models: code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    mmcv.imwrite(np.random.default_rng(0).integers(0, 255, (50, 60, 3)), 'image.png')
    (tmp_path / 'broken.png').write_text('no image')
    attentions = dict(
        softmax=(32, dict(type='SoftmaxAttention')), karat=(32, KARAT), large=(48, KARAT)
    )
    for name, (size, attn_cfg) in attentions.items():
        model = dict(
            type='ImageClassifier',
            data_preprocessor=dict(mean=[120.0] * 3, std=[60.0] * 3),
            backbone=dict(type='KAT', arch=ARCH, img_size=size, patch_size=8, attn_cfg=attn_cfg),
        )
        cfg = Config(dict(default_scope='mmpretrain', model=model))
        cfg.dump(f'{name}.py')
        init_default_scope('mmpretrain')
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), f'{name}.pth')

    def run(image, *names, options=()):
        models = [part for name in names for part in ('--model', f'{name}.py', f'{name}.pth')]
        monkeypatch.setattr(sys, 'argv', [str(TOOL), image, *models, *options])
        code = 0
        try:
            runpy.run_path(str(TOOL), run_name='__main__')
        except SystemExit as exit:
            code = exit.code
        return code, capsys.readouterr().out

    return run


@pytest.mark.parametrize('options', [(), ('--query', '1', '2', '--blocks', '0', '1', '2')])
def test_models_are_drawn_below_each_other(run, options, tmp_path):
    code, out = run('image.png', 'softmax', 'karat', options=options)
    assert code == 0, code
    assert 'Attention maps: attention.png' in out
    height = mmcv.imread(tmp_path / 'attention.png').shape[0]
    assert height == pytest.approx(110 * 2.6 * 2 * (3 if options else 2), rel=0.01)


@pytest.mark.parametrize(
    'image, names, options, words',
    [
        ('none.png', ['karat'], (), ['none.png', 'no image']),
        ('broken.png', ['karat'], (), ['broken.png', 'no image']),
        ('image.png', ['nothing'], (), ['config nothing.py does not exist']),
        ('image.png', ['kat_t_in1k_sampel'], (), ['did you mean kat_t_in1k_sample?']),
        ('image.png', ['karat', 'large'], (), ['differ', '(4, 4)', '(6, 6)']),
        ('image.png', ['karat'], ('--query', '4', '0'), ['--query 4 0', '4 x 4']),
        ('image.png', ['karat'], ('--blocks', '7'), ['karat.py', 'block 7 does not exist']),
    ],
)
def test_mistakes_end_in_one_message_and_no_picture(run, image, names, options, words, tmp_path):
    code, _ = run(image, *names, options=options)
    assert isinstance(code, str) and code.startswith('error: ')
    for word in words:
        assert word in code
    assert not (tmp_path / 'attention.png').exists()
