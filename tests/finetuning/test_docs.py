"""The commands of docs/finetune.md are such, and what it says of labels is so."""

from __future__ import annotations

import re
import shlex

import pytest

from riboray.options import options_of, parse_config
from riboray.verbs import VERBS
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "finetune.md").read_text("utf-8")
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S) for line in block.splitlines()
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one(command):
    program, verb, *arguments = shlex.split(command, comments=True)
    assert program == "riboray"
    config_class = VERBS[verb].load_config()
    assert parse_config(verb, config_class, arguments)


def test_options_that_are_named_are_there():
    config_class = VERBS["finetune"].load_config()
    known = {*(option.flag for option in options_of(config_class)), "--search", "--tasks"}
    named = {flag.rstrip(".") for flag in re.findall(r"`(--[a-z][a-z.-]*)", TEXT)}
    assert named <= known, named - known
