import pytest
import torch


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan():
    """What an operator leaves unwritten, or reads before it is written, shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before)
