import gc
import os
import sys

import pytest
import torch

# Without a GPU the kernels run under Triton's interpreter, which must be chosen before they load.
if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')

# No test, and no process that it starts, reaches beyond this machine: whatever would is sent to a
# proxy that refuses, so that a test which downloads weights fails at once.
for _name in ('http_proxy', 'https_proxy', 'all_proxy'):
    os.environ[_name] = os.environ[_name.upper()] = 'http://127.0.0.1:9'
os.environ['no_proxy'] = os.environ['NO_PROXY'] = '127.0.0.1,localhost'


@pytest.fixture(autouse=True, scope='session')
def no_weights(tmp_path_factory):
    """Weights that were downloaded before are not found: tests are the same on every machine."""
    os.environ['KAT_MM_WEIGHTS_DIR'] = str(tmp_path_factory.mktemp('weights'))


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker('gpu'):
            item.add_marker(pytest.mark.skip(reason='needs a CUDA GPU'))


def pytest_collection_finish():
    """Collections of garbage, as mmengine makes for each data set, leave out what is imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def quick_build(monkeypatch):
    """Leave weights as they were allocated, where it matters only that they are there."""
    for name in ('normal_', 'kaiming_normal_', 'kaiming_uniform_', 'trunc_normal_', 'uniform_'):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)


@pytest.fixture
def one_thread():
    """On busy cores threads wait for each other longer than they work on small tensors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def trust_of_the_process(monkeypatch):
    """A tool that a test runs decides for its own process alone, as if it had one."""
    from kat_mm.checkpoints import trust

    monkeypatch.setattr(trust, '_trusted', None)


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    """Else what another test compiled at other sizes is compiled for all sizes, in minutes."""
    if 'torch._dynamo' in sys.modules:
        torch._dynamo.reset()
