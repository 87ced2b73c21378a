"""Time and memory of predictions; the numbers are the machine's."""

import pytest
from export_models import classifier_config, detector_config, segmenter_config

from kat_mm import checks
from kat_mm.analysis.speed import measure


@pytest.mark.parametrize(
    'config', [classifier_config, segmenter_config, lambda: detector_config('mask')]
)
def test_every_task_predicts_for_noise(config, one_thread):
    cfg = config()
    checks.check_config(cfg, ())
    model, calls = checks.build_model(cfg), []
    model.register_forward_hook(lambda *args: calls.append(len(args[1][0])))
    found = measure(model, (64, 80), batch=2, seconds=0.01)
    assert len(calls) > 3 and set(calls) == {2}
    assert 0 < found.low <= found.median <= found.high and found.memory > 0
