"""The page of all commands, made from the verbs' configuration classes."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

from riboray.options import SWITCHES, options_of
from riboray.verbs import VERBS

_HEAD = """# Commands

This page is made from the configuration classes: it says what `riboray VERB --help` says.
`riboray VERB` and `python jobs/VERB.py` are the same.

Every verb takes, besides its own options,

| option | |
|---|---|
| `--help` | what the verb does and all its options |
| `--config FILE` | options from a YAML file; those behind it on the command line go before it |
| `--print-config` | all options with their values, as such a file |
{switches}

Lists take several values (`--layers 4 5 6`), or JSON (`--layers '[4, 5, 6]'`). A switch alone means
yes. Options cannot be abbreviated.

Exit codes: 0; 2 for input or options that cannot be used; 1 for a failure of riboray or of the
machine; 130 after Ctrl-C. Results go to standard output, everything else to standard error. Colours
and progress bars are for terminals alone, and there are no colours where `NO_COLOR` is set.
"""


def commands_page() -> str:
    """Write the page, as Markdown."""
    rows = "\n".join(f"| `{flag}` | {text} |" for flag, text in SWITCHES.items())
    parts = [_HEAD.format(switches=rows)]
    for name, verb in VERBS.items():
        parts += [f"## riboray {name}\n", _described(verb.load_config())]
    return "\n".join(parts)


def _described(config_class: type[Any]) -> str:
    text = inspect.cleandoc(config_class.__doc__ or "").replace("``", "`")
    positional = getattr(config_class, "POSITIONAL", None)
    hints, defaults = _fields(config_class)
    lines = [text, "", "| option | values | default | |", "|---|---|---|---|"]
    for option in options_of(config_class):
        name = option.flag[2:].replace("-", "_")
        if name not in hints:
            continue
        flag = f"`{option.flag}`" + (" (or first)" if name == positional else "")
        values, default = _values(hints[name]), _shown(defaults[name])
        lines.append(f"| {flag} | {values} | {default} | {_cell(option.help)} |")
    return "\n".join(lines) + "\n"


def _fields(config_class: type[Any], prefix: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """Return types and default values of a class's fields, and of those in it."""
    hints: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    types = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        kind, name = types[field.name], prefix + field.name
        if dataclasses.is_dataclass(kind):
            inner, values = _fields(kind, f"{name}.")  # type: ignore[arg-type]
            hints |= inner
            defaults |= values
            if field.default_factory is not dataclasses.MISSING:
                for key, value in dataclasses.asdict(field.default_factory()).items():
                    if f"{name}.{key}" in defaults:
                        defaults[f"{name}.{key}"] = value
            continue
        hints[name] = kind
        defaults[name] = field.default
        if field.default_factory is not dataclasses.MISSING:
            defaults[name] = field.default_factory()
    return hints, defaults


def _values(kind: Any) -> str:
    """Say what a field can be."""
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is list:
        inner = _values(get_args(kind)[0])
        return f"several: {inner}" if inner.startswith("`") else f"{inner}s"
    if parts := [part for part in get_args(kind) if part is not type(None)]:
        return " or ".join(_values(part) for part in parts)
    names = {bool: "yes or no", int: "whole number", float: "number", str: "text"}
    return names.get(kind, "part")


def _shown(value: Any) -> str:
    if value is None or value in ("", [], dataclasses.MISSING):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        parts = [dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for v in value]  # type: ignore[arg-type]
        return " ".join(f"`{part}`" for part in parts)
    return f"`{value}`"


def _cell(text: str) -> str:
    """Put a text into a table's cell."""
    text = " ".join(text.replace("``", "`").split())
    return re.sub(r"(?<!\\)\|", r"\\|", text).replace("*", r"\*").replace("<", "&lt;")
