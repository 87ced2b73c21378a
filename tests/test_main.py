import sys

import pytest

from kat_mm.__main__ import main


def test_a_tool_runs_by_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['kat_mm', 'convert_checkpoint', '--help'])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 0
    assert capsys.readouterr().out.startswith('usage: convert_checkpoint.py')


def test_a_wrong_tool_lists_the_right_ones(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['kat_mm', 'trian'])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 2
    printed = capsys.readouterr().out
    assert 'no tool trian' in printed and 'train' in printed
