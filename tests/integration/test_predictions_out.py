"""tools/infer.py, tools/export.py and tools/test.py with an exported file, as a user calls them."""

import json
import pickle
import shutil

import cv2
import numpy as np
import pytest
from test_sources import serving, write_video
from tools_runner import read_scalars, run_tool


def test_infer_writes_pictures_labels_and_json_and_names_damaged_files(
    trained, tiny_config, data_root, tmp_path
):
    damaged = tmp_path / 'damaged.jpg'
    damaged.write_text('no image')
    line = tmp_path / 'line.png'
    cv2.imwrite(str(line), np.zeros((2, 6000, 3), np.uint8))
    narrow = tmp_path / 'narrow.png'
    cv2.imwrite(str(narrow), np.zeros((1600, 120, 3), np.uint8))
    images = data_root / 'images' / 'validation'
    write_video(tmp_path / 'film.avi')
    with serving(images) as address:
        name = next(images.iterdir()).name
        inputs = images, damaged, line, narrow, tmp_path / 'film.avi', f'{address}/{name}'
        options = '--out', tmp_path / 'out', '--batch-size', 2, '--half'
        result = run_tool('infer.py', tiny_config, trained / 'iter_6.pth', *inputs, *options)
    assert result.status == 1
    assert result.last_line.startswith('error: 3 inputs were skipped: ')
    assert f'skipped: {damaged} does not decode as an image' in result.stderr
    assert 'skipped: line.png: the config' in result.stderr
    # Its pyramid has no column left; in a batch with others.
    assert 'skipped: narrow.png: the model fails at 1 image(s) of 96 x 7 pixels' in result.stderr
    assert 'images/s' in result.stdout
    entries = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert len(entries) == 5 + 3 + 1
    assert (tmp_path / 'out' / 'pictures' / 'film.mp4').is_file()
    assert entries[-1]['image'] == f'{name[:-4]}-1.jpg'
    for entry in entries[:5]:
        labels = cv2.imread(str(tmp_path / 'out' / entry['labels']), cv2.IMREAD_UNCHANGED)
        assert labels.shape == cv2.imread(str(images / entry['image'])).shape[:2]
        assert sum(entry['share'].values()) == pytest.approx(1, abs=1e-4)
        assert (tmp_path / 'out' / 'pictures' / entry['image']).is_file()


def test_an_exported_segmenter_has_the_metrics_of_its_checkpoint(trained, tiny_config, tmp_path):
    checkpoint, file = trained / 'iter_6.pth', tmp_path / 'model.pt2'
    result = run_tool(
        'export.py', tiny_config, checkpoint, '--out', file, '--format', 'torch', '--dynamic-size',
        timeout=600,
    )  # fmt: skip
    assert result.status == 0 and 'done: ' in result.stdout, result.stderr
    metrics = {}
    for name, model in (('pth', checkpoint), ('pt2', file)):
        folder, out = tmp_path / name, tmp_path / f'{name}.pkl'
        options = ['--work-dir', folder, '--out', out, '--allow-pickle']
        result = run_tool('test.py', tiny_config, model, *options)
        assert result.status == 0, result.stderr
        assert len(pickle.loads(out.read_bytes())) == 5
        files = list(folder.glob('*/*.json'))
        metrics[name] = json.loads(files[0].read_text())['mIoU'] if files else read_scalars(folder)
    assert metrics['pt2'] == pytest.approx(metrics['pth'], abs=0.1)


def test_a_folder_for_a_file_of_predictions_is_refused(trained, tiny_config, tmp_path):
    (tmp_path / 'out.pkl').mkdir()
    arguments = '--out', tmp_path / 'out.pkl', '--work-dir', tmp_path / 'work'
    result = run_tool('test.py', tiny_config, trained / 'iter_6.pth', *arguments)
    assert result.status == 1 and result.last_line.endswith('out.pkl is a folder; name a file')
    assert not (tmp_path / 'work').exists()


def test_show_without_a_display_says_so(trained, tiny_config, tmp_path):
    result = run_tool(
        'test.py', tiny_config, trained / 'iter_6.pth', '--show', '--work-dir', tmp_path, DISPLAY=''
    )
    assert result.status == 1 and '--show needs a display' in result.last_line


def test_the_terminal_gets_a_screenful_before_the_first_iteration(tiny_config, tmp_path):
    result = run_tool('train.py', tiny_config, '--work-dir', tmp_path)
    assert result.status == 0, result.stderr
    lines = result.stdout.splitlines()
    before = next(i for i, line in enumerate(lines) if 'Iter(train)' in line)
    assert before <= 8 and 'avg_non_ignore' not in result.stderr
    assert 'M parameters' in lines[0] and 'Config, environment and hooks are in' in lines[2]
    log = next(tmp_path.glob('*/*.log')).read_text()
    for said in ('System environment', 'Config:', 'Hooks will be executed', 'parameter group'):
        assert said in log


def test_images_without_annotations_get_what_a_server_takes(
    trained, tiny_config, data_root, tmp_path
):
    images = tmp_path / 'data' / 'images' / 'testing'
    shutil.copytree(data_root / 'images' / 'validation', images)
    options = [
        f'test_dataloader.dataset.data_root={tmp_path}/data',
        'test_dataloader.dataset.data_prefix.img_path=images/testing',
    ]
    out = tmp_path / 'out'
    arguments = '--format-only', '--out', out, '--work-dir', tmp_path / 'work', '--tta'
    checkpoint = trained / 'iter_6.pth'
    result = run_tool('test.py', tiny_config, checkpoint, *arguments, '--cfg-options', *options)
    assert result.status == 0, result.stderr
    assert {p.stem for p in out.iterdir()} == {p.stem for p in images.iterdir()}
    # ADE20K numbers its classes from 1.
    assert min(cv2.imread(str(p), cv2.IMREAD_UNCHANGED).min() for p in out.iterdir()) >= 1
