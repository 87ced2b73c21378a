import json
import os
import subprocess
import sys

import pytest
from tools_runner import ROOT


@pytest.mark.slow
def test_a_thread_that_waits_for_pythons_lock_does_not_abort_the_end_of_a_process(tmp_path):
    # Without the mend one of the two processes ends with -6, every time.
    result = subprocess.run(
        [sys.executable, ROOT / 'benchmarks/endings.py', '--endings', '2', '--out-dir', tmp_path],
        env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    statuses = [kind['statuses'] for kind in json.loads((tmp_path / 'results.json').read_text())]
    assert statuses == [{'0': 4}, {'0': 4}, {'1': 4}]
