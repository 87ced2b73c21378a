import pytest
from small_samples import SMALL

from kat_mm.sample_data import WRITERS, make_sample_data


@pytest.fixture(scope='package')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('sample')
    make_sample_data(list(WRITERS), out, SMALL)
    return out
