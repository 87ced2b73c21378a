"""The notebooks run from their first cell to their last, with the results that they tell of."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[2] / 'docs/notebooks'

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_a_notebook_runs(task, tmp_path):
    notebook = nbformat.read(NOTEBOOKS / f'{task}.ipynb', as_version=4)
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == 'code']
    NotebookClient(notebook, timeout=600, resources=dict(metadata=dict(path=tmp_path))).execute()
    now = [cell.outputs for cell in notebook.cells if cell.cell_type == 'code']
    assert any('image/png' in output.get('data', ()) for output in now[-1])
    # The page shows what a run shows: same kinds of output in the same cells.
    assert [[output.output_type for output in cell] for cell in now] == [
        [output.output_type for output in cell] for cell in outputs
    ]
