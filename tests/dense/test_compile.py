import copy
import logging

import pytest
import torch
from torch import nn

from kat_mm.dense import compile_parts


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.auxiliary_head = nn.ModuleList([nn.Linear(4, 2)])
        self.other = nn.Linear(4, 2)

    def forward(self, x):
        x = self.backbone(x)
        return self.auxiliary_head[0](x).sum() + self.other(x).sum()


@pytest.fixture
def counter():
    """A backend that counts the programs that it gets."""

    def backend(graph, inputs):
        backend.programs += 1
        return graph.forward

    backend.programs = 0
    torch._dynamo.reset()
    yield backend
    torch._dynamo.reset()


def test_parts_are_compiled_under_their_names(counter, caplog):
    plain, model = Model(), Model()
    with caplog.at_level(logging.INFO, logger='kat_mm'):
        compile_parts(model, training=True, backend=counter)
    assert 'torch.compile: backbone, auxiliary_head.0;' in caplog.text
    x = torch.randn(3, 4)
    for each in (plain, model):
        each(x).backward()
    assert counter.programs == 2
    for (name, want), (got_name, got) in zip(
        plain.named_parameters(), model.named_parameters(), strict=True
    ):
        assert name == got_name
        torch.testing.assert_close(got.grad, want.grad)


def test_the_other_mode_is_not_compiled(counter):
    model, x = Model(), torch.randn(3, 4)
    compile_parts(model, training=True, backend=counter)
    with torch.no_grad():
        model.eval()(x)
        model.train()(x)
    model.eval()(x)
    assert counter.programs == 0
    model.train()(x)
    assert counter.programs == 2
    model = Model().eval()
    compile_parts(model, training=False, backend=counter)
    with torch.no_grad():
        model(x)
    assert counter.programs == 4


def test_what_cannot_be_compiled_is_left_and_said_once(caplog):
    def fail(graph, inputs):
        raise NotImplementedError('no such operator')

    torch._dynamo.reset()
    plain, model, x = Model(), Model(), torch.randn(3, 4)
    compile_parts(model, training=True, backend=fail)
    with caplog.at_level(logging.WARNING, logger='kat_mm'):
        for _ in range(2):
            assert model(x).item() == plain(x).item()
    messages = [record.getMessage() for record in caplog.records if record.levelname == 'WARNING']
    assert len(messages) == 2
    assert 'backbone cannot be compiled and is left as it is' in messages[0]
    assert 'no such operator' in messages[0]


def test_an_error_of_the_part_itself_is_its_own(counter):
    model = Model()
    compile_parts(model, training=True, backend=counter)
    with pytest.raises(RuntimeError, match='shapes cannot be multiplied'):
        model(torch.randn(3, 5))


def test_a_copy_has_its_own_parameters(counter):
    model, x = Model(), torch.randn(3, 4)
    compile_parts(model, training=True, backend=counter)
    model(x)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.backbone[0].weight.zero_()
    assert other(x).item() != model(x).item()
