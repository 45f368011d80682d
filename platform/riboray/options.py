"""From a config dataclass to flags, YAML and help, through jsonargparse.

What is added to it here: flags are spelt with dashes, list flags take several values, and a
mistake is one line.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentParser,
    set_parsing_settings,
)

from riboray.console import Manner
from riboray.errors import ConfigError
from riboray.verbs import VERBS

__all__ = ["SWITCHES", "Option", "command_line", "options_of", "parse_command", "parse_config"]

set_parsing_settings(docstring_parse_attribute_docstrings=True)

T = TypeVar("T")

#: Switches that every verb has; they are no part of a configuration.
SWITCHES = {
    "--json": "Print the result on standard output as one JSON document, and nothing else there.",
    "--quiet": "Say nothing but warnings, errors and what was asked for.",
}


class _Parser(ArgumentParser):
    """A parser whose flags have dashes and whose errors are one line."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add an argument; ``--max_minutes`` becomes ``--max-minutes``."""
        if args and isinstance(args[0], str) and args[0].startswith("--"):
            args = (args[0].replace("_", "-"), *args[1:])
        return super().add_argument(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing usage and exiting."""
        message = _one_line(message)
        if message.startswith("unrecognized"):
            flags = [f for a in self._actions for f in a.option_strings if not f.endswith("+")]
            words = [word.partition("=")[0] for word in message.split()]
            close = [m for w in words if w[:2] == "--" for m in get_close_matches(w, flags, 1)]
            message += f"; did you mean {close[0]}?" if close else f" (see {self.prog} --help)"
        raise ConfigError(message)


def _one_line(message: str) -> str:
    """Shorten jsonargparse's report of a value of the wrong type."""
    key = re.search(r'key "([^"]+)"', message)
    value = re.search(r"(?:Given value|Got value): *(.*)", message)
    if key and value:
        message = re.sub(r"typing\.Literal\[([^]]*)\]", r"\1", message)
        expected = re.findall(r"Expected an? ([^\n.]*)|Subtypes: \[(.*)\]", message)
        wanted = [re.sub(r"<class '(\w+)'>", r"\1", a or b) for a, b in expected]
        types = wanted[0].replace("NoneType", "nothing").replace(", ", " or ") if wanted else "?"
        return f"{key[1].replace('_', '-')}: expected {types}, not {value[1].strip()!r}"
    return " ".join(message.split())


def parse_config(verb: str, config_class: type[T], arguments: Sequence[str]) -> T:
    """Make a config from command-line arguments and the YAML files they name.

    Parameters
    ----------
    verb : str
        Name of the verb, for the help text.
    config_class : type
        A config dataclass with a docstring under each field.
    arguments : sequence of str
        Flags; ``--config FILE`` reads YAML, later flags override it, ``--help`` prints help and
        exits.

    Returns
    -------
    object
        An instance of ``config_class``.

    Raises
    ------
    ConfigError
        On an unknown option or a value that does not fit.
    """
    return parse_command(verb, config_class, arguments)[0]


def parse_command(verb: str, config_class: type[T], arguments: Sequence[str]) -> tuple[T, Manner]:
    """Make a config, as `parse_config` does, and tell in which manner the verb is to talk."""
    parser = _make_parser(verb, config_class)
    own, rest = _split_rest(config_class, list(arguments))
    switches = set(own) & set(SWITCHES)
    manner = Manner(as_json="--json" in switches, quiet="--quiet" in switches)
    own = [word for word in own if word not in SWITCHES]
    own = ["--print-config=" if word == "--print-config" else word for word in own]
    _check_yaml(own)
    values = parser.parse_args([*_join_lists(config_class, own), *rest])
    for name in ("config", *SWITCHES):
        values.pop(name.strip("-"), None)
    # Not vars(): jsonargparse hides names that its own methods have, such as `update`.
    return config_class(**parser.instantiate(values).as_dict()), manner


def _split_rest(config_class: type[Any], arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split off what a class that names a field as ``REST`` takes as it is.

    That is all from the first word on that is neither a flag nor a flag's value.
    """
    name = getattr(config_class, "REST", None)
    if name is None:
        return arguments, []
    hints, number = get_type_hints(config_class), 0
    while number < len(arguments) and arguments[number].startswith("-"):
        flag, equals, _ = arguments[number].partition("=")
        switch = hints.get(flag.strip("-").replace("-", "_")) is bool or flag in (
            "-h",
            "--help",
            *SWITCHES,
        )
        value = arguments[number + 1] if number + 1 < len(arguments) else ""
        alone = equals or (switch and value.lower() not in ("true", "false", "yes", "no"))
        number += 1 if alone else 2
        if hints.get(flag.strip("-").replace("-", "_")) == list[str] and not equals:
            while number < len(arguments) and _is_value(arguments[number]):
                number += 1
    rest = arguments[number:]
    return arguments[:number], [f"--{name}={json.dumps(rest)}"] if rest else []


def _is_value(word: str) -> bool:
    """Tell a further value of a list from a flag and from a verb."""
    return not word.startswith("-") and all(word != name.split()[0] for name in VERBS)


def _check_yaml(arguments: Sequence[str]) -> None:
    """Name the file if a YAML file cannot be read: jsonargparse does not."""
    for number, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        following = arguments[number + 1] if number + 1 < len(arguments) else ""
        path = value if equals else following
        if flag != "--config" or not Path(path).is_file():
            continue
        try:
            if not isinstance(yaml.safe_load(Path(path).read_text("utf-8")), dict):
                raise ConfigError(f"{path}: holds no options: lines such as `seed: 1` are expected")
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error


def _make_parser(verb: str, config_class: type[Any]) -> _Parser:
    description = " ".join((config_class.__doc__ or "").split("\n\n")[0].split())
    parser = _Parser(prog=f"riboray {verb}", description=description, allow_abbrev=False)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with options.")
    for switch, text in SWITCHES.items():
        parser.add_argument(switch, action="store_true", help=text)
    parser.add_class_arguments(config_class)
    _put_last(parser, getattr(config_class, "SHOWN_LAST", ()))
    return parser


def _put_last(parser: ArgumentParser, names: Sequence[str]) -> None:
    """Show some options after all others in the help."""
    groups: Sequence[Any] = parser._action_groups
    for actions in (parser._actions, *(group._group_actions for group in groups)):
        actions.sort(key=lambda action: action.dest in names)


def _kinds(config_class: type[Any], prefix: str = "--") -> Iterator[tuple[str, Any]]:
    """Yield the flags of a config class, and of those in it, with their types.

    Lists of other things than texts and numbers are left out.
    """
    for name, kind in get_type_hints(config_class).items():
        if name not in config_class.__dataclass_fields__:
            continue
        flag = prefix + name.replace("_", "-")
        if dataclasses.is_dataclass(kind):
            yield from _kinds(kind, f"{flag}.")  # type: ignore[arg-type]
        elif get_origin(kind) is not list or not dataclasses.is_dataclass(get_args(kind)[0]):
            yield flag, kind


def _join_lists(config_class: type[Any], arguments: list[str]) -> list[str]:
    """Turn ``--corpus a b --corpus c`` into ``--corpus ["a", "b", "c"]``.

    Words that belong to no flag go to the field that the class names as ``POSITIONAL``. A
    flag of a yes-or-no field alone means yes.
    """
    kinds = dict(_kinds(config_class))
    lists = {flag for flag, kind in kinds.items() if get_origin(kind) is list}
    numbers = {flag for flag in lists if get_args(kinds[flag])[0] in (int, float)}
    switches = {flag for flag, kind in kinds.items() if kind is bool}
    joined: list[str] = []
    values: dict[str, list[str]] = {}
    current: list[str] | None = None
    positional = getattr(config_class, "POSITIONAL", None)
    wants_value = False
    for number, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        following = arguments[number + 1].lower() if number + 1 < len(arguments) else ""
        switch = flag in switches and not equals
        if switch and following not in ("true", "false", "yes", "no"):
            argument, equals = argument + "=true", "="
        if argument.startswith("-") and not argument.startswith("--"):
            current = None
        if argument.startswith("--"):
            current = values.setdefault(flag, []) if flag in lists else None
            wants_value = current is None and not equals
            if current is None:
                joined.append(argument)
            elif equals:
                current.append(value)
        elif current is not None:
            current.append(argument)
        elif positional and not wants_value and not argument.startswith("-"):
            values.setdefault("--" + positional, []).append(argument)
        else:
            joined.append(argument)
            wants_value = False
    for flag, items in values.items():
        if not items:  # an unset variable of a script must not mean "no limit"
            raise ConfigError(f"{flag} needs a value")
        whole = len(items) == 1 and items[0].startswith("[")
        listed = f"[{', '.join(items)}]" if flag in numbers else json.dumps(items)
        joined += [flag, items[0] if whole else listed]
    return joined


@dataclass(frozen=True)
class Option:
    """A flag of a verb.

    Attributes
    ----------
    flag : str
        With its dashes.
    kind : object
        Type of its value; ``str`` where it is none of the config's fields.
    help : str
        What it does.
    switch : bool
        Whether it takes no value at all.
    """

    flag: str
    kind: Any
    help: str
    switch: bool


def options_of(config_class: type[Any]) -> list[Option]:
    """List every flag of a verb, in the order of its help."""
    kinds = dict(_kinds(config_class))
    return [
        Option(flag, kinds.get(flag, str), " ".join((action.help or "").split()), action.nargs == 0)
        for action in _make_parser("", config_class)._actions
        for flag in action.option_strings
        if flag.startswith("--") and not flag.endswith("+")
    ]


def command_line(verb: str, config: Any) -> str:
    """Write the command that gives a verb this configuration, for a shell.

    Parameters
    ----------
    verb : str
        Name of the verb.
    config : object
        An instance of a config dataclass; what has its default is left out.

    Returns
    -------
    str
        One line; `parse_config` makes an equal configuration of its words.
    """
    words = ["riboray", *verb.split()]
    positional = getattr(config, "POSITIONAL", None)
    if positional and all(not item.startswith(("-", "[")) for item in getattr(config, positional)):
        words += getattr(config, positional)
    else:
        positional = None
    words += _flags(config, "", (positional,))
    return shlex.join(words)


def _flags(config: Any, prefix: str, without: Sequence[str | None]) -> list[str]:
    """Return the flags of a config dataclass, and of those in it, that have no default value."""
    words: list[str] = []
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if value == default or field.name in without:
            continue
        flag = f"--{prefix}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            words += _flags(value, f"{prefix}{field.name.replace('_', '-')}.", ())
        elif isinstance(value, list):
            plain = value and all(
                isinstance(v, str) and not v.startswith(("-", "[")) for v in value
            )
            values = [dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for v in value]  # type: ignore[arg-type]
            words += [flag, *value] if plain else [f"{flag}={json.dumps(values)}"]
        else:
            words.append(f"{flag}={'null' if value is None else str(value)}")
    return words
