"""tools/infer.py, tools/export.py and tools/test.py with an exported file, as a user calls them."""

import json
import pickle

import cv2
import pytest
from tools_runner import read_scalars, run_tool


def test_infer_writes_pictures_labels_and_json_and_names_damaged_files(
    trained, tiny_config, data_root, tmp_path
):
    damaged = tmp_path / 'damaged.jpg'
    damaged.write_text('no image')
    images = data_root / 'images' / 'validation'
    result = run_tool(
        'infer.py', tiny_config, trained / 'iter_6.pth', images, damaged, '--out', tmp_path / 'out'
    )
    assert result.status == 1
    assert f'skipped: {damaged} is no image' in result.stderr
    assert 'images/s' in result.stdout
    entries = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert len(entries) == len(list(images.iterdir())) == 5
    for entry in entries:
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
        result = run_tool('test.py', tiny_config, model, '--work-dir', folder, '--out', out)
        assert result.status == 0, result.stderr
        assert len(pickle.loads(out.read_bytes())) == 5
        files = list(folder.glob('*/*.json'))
        metrics[name] = json.loads(files[0].read_text())['mIoU'] if files else read_scalars(folder)
    assert metrics['pt2'] == pytest.approx(metrics['pth'], abs=0.1)


def test_show_without_a_display_says_so(trained, tiny_config, tmp_path):
    result = run_tool(
        'test.py', tiny_config, trained / 'iter_6.pth', '--show', '--work-dir', tmp_path, DISPLAY=''
    )
    assert result.status == 1 and '--show needs a display' in result.last_line
