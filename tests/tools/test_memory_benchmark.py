"""benchmarks/run.py memory: its rows, and the page that it writes."""

import json

import pytest
import torch

ROW = {'1': 10.0, '2': 20.0, '4': 40.0, '8': None}


@pytest.fixture
def memory(run_benchmark):
    import memory

    return memory


@pytest.fixture
def results():
    rows = {'plain': ROW, 'with_cp': {'1': 5.0, '2': 10.0, '4': 20.0, '8': 40.0, '16': 79.0}}
    configs = {'kat_b_mask_rcnn_lsj_coco': dict(size=[1024, 1024], total_batch=64, **rows)}
    full = dict(size=[512, 512], total_batch=16, plain={'2': 30.0}, with_cp={'2': 6, '16': 23.9})
    return dict(machine=dict(device='a GPU'), configs={**configs, 'kat_x': full})


def test_the_largest_batch_of_a_card(memory):
    assert [memory.largest(ROW, card, 64) for card in (9, 10, 24, 48, 80)] == [None, 1, 2, 4, 4]
    # Not more than the recipe's, and a part of it.
    assert memory.largest({'4': 1.0, '8': 2.0, '16': 3.0}, 24, 8) == 8
    assert memory.largest({'1': 1.0, '2': 2.0}, 24, 5) == 1
    assert [memory.cell(images, 16) for images in (None, 4, 16)] == ['no', '4 x 4', '16']


def test_the_page_tells_batches_accumulation_and_commands(memory, results):
    page = memory.page(results)
    name = '`kat_b_mask_rcnn_lsj_coco`'
    assert f'| {name} | 64 | plain | 2 x 32 | 4 x 16 | 4 x 16 |' in page
    assert f'| {name} | 64 | with_cp | 4 x 16 | 8 x 8 | 16 x 4 |' in page
    assert '| `kat_x` | 16 | plain | no | 2 x 8 | 2 x 8 |' in page
    assert f'| {name} | 1024x1024 | plain | 10.0 | 20.0 | 40.0 | full |  |' in page
    on_24 = page.split('On 24 GB:')[1].split('On 48 GB:')[0]
    assert 'train_dataloader.batch_size=2 optim_wrapper.accumulative_counts=32\n' in on_24
    # Where it does not fit as it is, and needs no accumulation.
    assert 'train_dataloader.batch_size=16 model.backbone.with_cp=True\n' in on_24


def test_a_row_ends_where_memory_is_full(memory, monkeypatch):
    measured = memory.Measured('kat_t_mask_rcnn_sample', quick=True)

    def step_memory(kind, images):
        if images > 2:
            raise torch.OutOfMemoryError('full')
        return images * 3 * 10**9

    monkeypatch.setattr(measured, 'step_memory', step_memory)
    assert measured.row('plain', memory.BATCHES) == {'1': 3.0, '2': 6.0, '4': None}


def test_a_part_without_its_graph_is_too_large(memory, monkeypatch):
    measured = memory.Measured('kat_t_mask_rcnn_sample', quick=True)
    model = torch.nn.ModuleDict(dict(backbone=torch.nn.Linear(2, 2)))
    monkeypatch.setattr(measured, 'step', lambda kind, images: (model, dict))
    assert measured.row(memory.GRAPHS, (2,)) == {'2': 0.0}
    memory.graph_parts(model)
    assert measured.row(memory.GRAPHS, (2,)) == {'2': None}
    model['backbone'].forward.recordings[True, 'a shape'] = None
    assert measured.row(memory.GRAPHS, (2,)) == {'2': 0.0}


def test_every_dense_config_is_known(memory):
    for name in memory.NAMES:
        assert (memory.ROOT / 'configs' / f'{name}.py').exists()
        assert name.split('_', 2)[2] in memory.SIZES


@pytest.mark.slow
def test_steps_are_taken_plain_and_recomputed(run_benchmark, tmp_path):
    assert run_benchmark('run.py', 'memory', '--quick', '--out-dir', 'o') == 0
    configs = json.loads((tmp_path / 'o' / 'results.json').read_text())['configs']
    for name, rows in configs.items():
        assert rows.keys() == {'size', 'total_batch', 'plain', 'with_cp'}, name
        # Nothing is counted on a CPU, but the steps are taken.
        assert rows['plain'] == rows['with_cp'] == {'1': 0.0, '2': 0.0}
