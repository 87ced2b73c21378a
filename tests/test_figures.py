"""The figures that the pages print are those of the results that they link, rounded once."""

import json
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COLLATES = ('mmengine', 'kat_mm')


def results(name: str) -> dict:
    return json.loads((ROOT / f'benchmarks/results/{name}.json').read_text())


def prose(page: str) -> str:
    return ' '.join((ROOT / f'docs/{page}.md').read_text().split())


def printed(page: str, row: str) -> list[str]:
    """The numbers in a row of a page's table, left to right."""
    lines = (ROOT / f'{page}.md').read_text().splitlines()
    found = [line for line in lines if line.startswith(f'| {row} |')]
    assert len(found) == 1, f'{len(found)} rows {row!r} in {page}'
    return re.findall(r'\d+(?:\.\d+)?', ' '.join(found[0].split('|')[2:]))


def assert_rounded(texts: list[str], values: list[float]) -> None:
    wrong = [
        (text, value)
        for text, value in zip(texts, values, strict=True)
        if abs(float(text) - value) > 0.5001 * 10 ** -len(text.partition('.')[2])
    ]
    assert not wrong


ENTRIES = {
    (entry['task'], entry['mode'], entry['size'], entry['batch']): entry
    for entry in results('model/results')['entries']
    if entry['batch'] > 2
}
MODES = dict(eager='', compiled=', compiled', graphs=', CUDA graphs')


@pytest.mark.parametrize('mode, size, batch', [key[1:] for key in ENTRIES if key[0] == 'train'])
def test_a_step_of_a_whole_model(mode, size, batch):
    entry = ENTRIES['train', mode, size, batch]
    values = [
        value
        for model in ('timm', 'KAT', 'ViT')
        if model in entry['ms']
        for value in (entry['ms'][model]['median'], entry['gpu_ms'][model])
    ]
    assert_rounded(printed('docs/kernels', f'{size}, batch {batch}{MODES[mode]}'), values)


@pytest.mark.parametrize(
    'size, batch', [key[2:] for key in ENTRIES if key[:2] == ('train', 'eager')]
)
def test_a_whole_model_over_timms(size, batch):
    row = f'KAT-{size}, batch {batch}'
    entries = [
        ENTRIES.get((task, mode, size, batch))
        for mode in ('eager', 'compiled')
        for task in ('train', 'infer')
    ]
    ratios = [entry['ratio_to_timm']['KAT'] for entry in entries if entry]
    memory = entries[0]['allocated_mb']['KAT'] / entries[0]['allocated_mb']['timm']
    assert_rounded(printed('docs/speed', row), [*ratios, memory])


@pytest.mark.parametrize(
    'row, name',
    [
        ("KAT-S, mmseg's heads", 'kat_s_upernet_ade20k, mmseg'),
        ('KAT-S, ours', 'kat_s_upernet_ade20k, kernels'),
        ('KAT-S, ours, graphs', 'kat_s_upernet_ade20k, kernels, graphs'),
        ("ViT-S, mmseg's heads", 'vit_s_upernet_ade20k, mmseg'),
        ('ViT-S, ours', 'vit_s_upernet_ade20k, kernels'),
        ('ViT-S, ours, graphs', 'vit_s_upernet_ade20k, kernels, graphs'),
        ("mmpretrain's DeiT-S, mmseg's heads", "mmpretrain's DeiT-S, mmseg"),
    ],
)
def test_a_step_of_segmentation(row, name):
    model = results('segmentation/results')['models'][name]
    values = [
        model['train_ms']['median'],
        model['train_gpu_ms'],
        model['train_reserved_mb'] / 1000,
        model['validation_ms']['median'],
    ]
    assert_rounded(printed('docs/segmentation', row), values)


@pytest.mark.parametrize(
    'which, name, size', [(0, 'results', 's'), (1, 'base', 'b'), (2, 'tiny', 't')]
)
def test_what_graphs_win_in_segmentation(which, name, size):
    models = results(f'segmentation/{name}')['models']
    before = models[f'kat_{size}_upernet_ade20k, mmseg']
    after = models[f'kat_{size}_upernet_ade20k, kernels, graphs']
    speed, validation = (
        before[key]['median'] / after[key]['median'] for key in ('train_ms', 'validation_ms')
    )
    memory = after['train_reserved_mb'] / before['train_reserved_mb']
    found = re.findall(
        r"step is ([\d.]+) times as fast(?: as with mmseg's heads)? in ([\d.]+) of the memory, "
        r'and validation ([\d.]+) times',
        prose('segmentation'),
    )
    assert_rounded(list(found[which]), [speed, memory, validation])


def test_the_first_compiled_step():
    models = results('compile/results')['models']
    ours, timm = (models[name]['first_steps_seconds'] for name in ('KAT-S', 'timm ViT-S'))
    found = re.search(
        r'does not count: ([\d.]+) of timm.* it would be ([\d.]+)\.', prose('kernels')
    )
    assert_rounded(list(found.groups()), [ours[-1] / timm[-1], ours[-1] / min(timm)])


@pytest.mark.parametrize('size, batch', [('B', 128), ('T', 512)])
def test_steps_with_act2_inside_fc1(size, batch):
    cases = results('revisions/act2_in_fc1')['cases']
    train, infer = cases[f'{size} {batch}'], cases[f'{size} {batch}, inference']
    work = [case[when]['gpu_ms'] for case in (train, infer) for when in ('before', 'after')]
    memory = infer['after']['allocated_mb'] / infer['before']['allocated_mb']
    assert_rounded(printed('docs/kernels', f'KAT-{size}, batch {batch}'), [*work, memory])


@pytest.mark.parametrize(
    'row, name',
    [
        ("mmdetection's heads", 'mmdet'),
        ("mmdetection's heads, graphs", 'graphs'),
        ('ours', 'fast heads'),
        ('ours, graphs', 'fast heads, graphs'),
    ],
)
def test_a_step_of_detection(row, name):
    images = results('detection/results')['images']
    steps = [(images['2'], 'train'), (images['6'], 'train'), (images['6'], 'predict')]
    values = [
        value
        for models, task in steps
        for value in (
            *(models[name][task]['ms'][which] for which in ('median', 'min', 'max')),
            models[name][task]['gpu_ms'],
        )
    ]
    memory = [images[count][name]['train_reserved_mb'] / 1000 for count in ('2', '6')]
    assert_rounded(printed('docs/detection', row), [*values, *memory])


@pytest.mark.parametrize(
    'row, name',
    [
        ("mmdetection's heads on ViTSAM", 'mmdet on ViTSAM'),
        ("mmdetection's heads on KAT", 'mmdet'),
        ('ours on KAT, graphs', 'fast heads, graphs'),
    ],
)
def test_a_step_of_detection_against_vit_sam(row, name):
    model = results('detection/results')['images']['2'][name]
    values = [
        value
        for task in ('train', 'predict')
        for value in (
            *(model[task]['ms'][which] for which in ('median', 'min', 'max')),
            model[task]['gpu_ms'],
        )
    ]
    assert_rounded(printed('docs/detection', row), [*values, model['train_reserved_mb'] / 1000])


@pytest.mark.parametrize('size', ['S', 'B'])
def test_steps_and_inference_of_eomt(size):
    name = f'kat_{size.lower()}_eomt_instance_coco'
    found = results('eomt/results')['models'][name]
    training, speed = found['training'], found['inference']
    for suffix in ('', ', graphs'):
        values = []
        for kind in ('masked', 'annealed'):
            step = training[kind + suffix]
            values += [step['ms'][which] for which in ('median', 'min', 'max')]
            values += [step['gpu_ms'], step['ms']['median'] / step['gpu_ms']]
        assert_rounded(printed('docs/heads', f'KAT-{size}{suffix}'), values)
    _, *ratios = printed('docs/heads', f'KAT-{size}, inference')
    assert_rounded(ratios, [speed['ratio, compiled'], speed['ratio']])


def test_what_follows_the_logits_of_eomt():
    models = results('eomt/results')['models'].values()
    keys = ('from the logits', 'from the image')
    values = [model['post-processing'][key]['median'] for key in keys for model in models]
    found = re.search(
        r'takes ([\d.]+) ms \(S\) and ([\d.]+) ms \(B\) for one image, '
        r'of ([\d.]+) and ([\d.]+) from the image on',
        prose('heads'),
    )
    assert_rounded(list(found.groups()), values)
    before = results('eomt/before')['models'].values()
    values = (model['post-processing']['from the logits']['median'] for model in before)
    assert 'which took {:.0f} and {:.0f} ms in [an earlier run]'.format(*values) in prose('heads')


ZOO = results('zoo/results')['configs'] | results('zoo/at_once')['configs']


@pytest.mark.parametrize('name', ZOO)
def test_the_zoo_of_heads(name):
    found = ZOO[name]
    values = [
        found['parameters'] / 1e6,
        found['flops'] / 2e9,
        found['predict_ms']['median'],
        found['train_ms']['median'],
        found['train_allocated_mb'] / 1000,
    ]
    assert_rounded(printed('docs/heads', f'`{name}`'), values)


@pytest.mark.parametrize('name', results('loading/results')['cases'])
def test_a_wait_for_a_batch(name):
    case = results('loading/results')['cases'][name]
    values = [case[which]['ms']['median'] for which in COLLATES]
    assert_rounded(printed('docs/detection', name), values)


def test_a_wait_for_a_batch_that_is_read():
    values = [
        [case[which]['read_ms']['median'] for which in COLLATES]
        for case in results('loading/results')['cases'].values()
    ]
    text = ', '.join('{:.0f} and {:.0f}'.format(*pair) for pair in values)
    assert f'with it they are {text} ms.' in prose('detection')


def test_a_step_on_facades_waits_for_its_batch():
    before, after = (results('loading/training')['training'][f'kat_s, {c}'] for c in COLLATES)
    step, wait = (f'{before[key]:.0f} to {after[key]:.0f}' for key in ('step_ms', 'wait_ms'))
    assert f'went from {step} ms on an H100, its wait for the batch from {wait} ' in prose(
        'detection'
    )


FACADES = results('facades/results')
CLASSES = [
    key.removeprefix('segm/').removesuffix('_precision')
    for key in FACADES['runs']['kat_s_mask_rcnn_0']
    if key.startswith('segm/') and key.endswith('_precision')
]


@pytest.mark.parametrize('name', [*CLASSES, 'mean'])
def test_objects_of_facades(name):
    key = '{0}/{0}_mAP' if name == 'mean' else f'{{0}}/{name}_precision'
    values = [
        statistics.mean(FACADES['runs'][f'{model}_{kind}_{seed}'][key.format(of)] for seed in seeds)
        for kind, seeds in (('mask_rcnn', range(3)), ('eomt_instance', range(1)))
        for model in ('kat_s', 'vit_s')
        for of in ('bbox', 'segm')
    ]
    assert_rounded(printed('docs/heads', name), values)


def test_means_on_facades():
    scores = {name: entry['values'] for name, entry in FACADES['means'].items()}
    text = prose('heads')
    values = scores['KAT-S, upernet'] + scores['ViT-S, upernet']
    assert 'KAT-S {} mIoU, ViT-S {} '.format(*values) in text
    before = results('facades/upernet_before')['runs'].values()
    assert 'came to {} and {} ('.format(*(run['mIoU'] for run in before)) in text
    for model in ('KAT-S', 'ViT-S'):
        seeds = scores[f'{model}, mask_rcnn']
        mean, listed = statistics.mean(seeds), ', '.join(map(str, seeds))
        assert f'{mean:.1f} ({listed}) for {model}' in text
    for words, kind in (
        ('From scratch, one seed: {} and {}.', 'mask_rcnn_scratch'),
        ('AP of masks {} for KAT-S, {} for ViT-S.', 'eomt_instance'),
    ):
        values = (scores[f'{model}, {kind}'][0] for model in ('KAT-S', 'ViT-S'))
        assert words.format(*values) in text


@pytest.mark.parametrize('which', ['forward', 'backward'])
def test_a_rational_function_over_a_copy(which):
    cases = results('ops/results')['group_rational']
    ratios = {(case['dtype'], case['shape'][2]): case['ratios'] for case in cases}
    kinds = [(dtype, width) for dtype in ('bfloat16', 'float32') for width in (3072, 768)]
    _, *found = printed('docs/kernels', which)
    assert_rounded(found, [ratios[kind][which] for kind in kinds])


@pytest.mark.parametrize(
    'size, pixels, batch', [('S', 224, 256), ('S', 512, 48), ('B', 224, 128), ('B', 512, 24)]
)
@pytest.mark.parametrize('mode', ['eager', 'compiled'])
def test_foundation_vits(size, pixels, batch, mode):
    entry = next(
        e
        for e in results('foundation/results')['entries']
        if (e['size'], e['pixels'], e['mode']) == (size, pixels, mode)
    )
    row = f'{size}, {pixels}' + (', compiled' if mode == 'compiled' else '')
    ratios, work = entry['ratio_to_timm'], entry['gpu_ms']
    values = [batch, ratios['ViT'], ratios['KAT'], work['timm'], work['ViT'], work['KAT']]
    assert entry['batch'] == batch
    assert_rounded(printed('docs/kernels', row), values)
