"""The verb `completion`: scripts for shells, made from the verbs' options by shtab."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args, get_origin

import shtab

from riboray.console import show
from riboray.options import options_of
from riboray.verbs import VERBS, Verb

__all__ = ["CompletionConfig", "completion"]

Shell = Literal["bash", "zsh", "fish", "tcsh"]


@dataclass(frozen=True, kw_only=True)
class CompletionConfig:
    """Print a script for your shell: ``source <(riboray completion bash)``."""

    POSITIONAL: ClassVar[str] = "shell"

    shell: list[Shell] = dataclasses.field(default_factory=lambda: ["bash"])
    """The shell; may be given first."""


def completion(config: CompletionConfig) -> dict[str, str]:
    """Show, and return, a completion script.

    Parameters
    ----------
    config : CompletionConfig
        For which shells; the last one counts.
    """
    script: str = shtab.complete(_parser(), shell=config.shell[-1])
    show(script.removesuffix("\n"))
    return {"shell": config.shell[-1], "script": script}


def _parser() -> argparse.ArgumentParser:
    """Make a parser that has all verbs and options, for shtab to read."""
    parser = argparse.ArgumentParser(prog="riboray")
    parser.add_argument("--version", action="store_true", help="Print the version.")
    verbs = parser.add_subparsers()
    kinds: dict[str, Any] = {}
    for name, verb in VERBS.items():
        first, _, second = name.partition(" ")
        if second:
            if first not in kinds:
                own = verbs.add_parser(first, help=f"{first} …")
                kinds[first] = own.add_subparsers()
            _fill(kinds[first].add_parser(second, help=verb.help), verb)
        else:
            _fill(verbs.add_parser(first, help=verb.help), verb)
    return parser


def _fill(parser: argparse.ArgumentParser, verb: Verb) -> None:
    """Add a verb's options, with the values they can have."""
    config_class = verb.load_config()
    options = options_of(config_class)
    kinds = {option.flag: option.kind for option in options}
    for option in options:
        if option.flag == "--help":
            continue
        text = option.help.replace("%", "%%")
        if option.switch:
            parser.add_argument(option.flag, action="store_true", help=text)
        else:
            _offer(parser.add_argument(option.flag, help=text), option.kind)
    positional = getattr(config_class, "POSITIONAL", None)
    if positional is not None:
        named = getattr(config_class, "VALUES", {}).get(positional)
        kind = Literal[named] if named else kinds["--" + positional]
        _offer(parser.add_argument(positional, nargs="*"), kind)
    elif hasattr(config_class, "REST"):
        parser.add_argument("verb", choices=sorted({name.split()[0] for name in VERBS}))


def _offer(action: argparse.Action, kind: Any) -> None:
    """Complete a value: one of those there are, or a file."""
    action.choices = _values(kind)
    if action.choices is None:
        action.complete = shtab.FILE  # type: ignore[attr-defined]


def _values(kind: Any) -> list[str] | None:
    """List what a field can be, if that is few things."""
    if kind is bool:
        return ["true", "false"]
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    found = [values for part in get_args(kind) if (values := _values(part)) is not None]
    return found[0] if found else None
