import os

import pytest
import torch

# Without a GPU the kernels run under Triton's interpreter, which must be chosen before they load.
if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker('gpu'):
            item.add_marker(pytest.mark.skip(reason='needs a CUDA GPU'))
