"""The examples of docs/python.md and of README, run as they stand."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "python.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.S)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example(number, capsys):
    exec(EXAMPLES[number], {})
    if number == 0:
        shown = re.findall(r"```\n(score.*?)```", TEXT, re.S)[0]
        assert capsys.readouterr().out.strip() == shown.strip()
    if number == 1:
        assert "torch.Size([1, 21, 120]) torch.Size([1, 120])" in capsys.readouterr().out


def test_readme():
    (example,) = re.findall(
        r"## In Python\n\n```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S
    )
    exec(example, {})
