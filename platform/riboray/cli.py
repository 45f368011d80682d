"""``riboray VERB``: the command line.

A verb is a config dataclass and a function that takes it. Flags (``--max-minutes``), the YAML file
(``--config``) and the help text all come from the dataclass, through jsonargparse.
"""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from riboray import __version__
from riboray.errors import RiborayError
from riboray.verbs import VERBS, Verb, kinds_of, verb_of

if TYPE_CHECKING:
    from riboray.console import Manner

__all__ = ["main", "run_verb"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        Exit code: 0, 2 for bad input or configuration, 1 for a failure of ours, 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_overview())
        return 0 if given else 2
    if given[0] == "--version":
        print(f"riboray {__version__}")
        return 0
    if not kinds_of(given[0]) and given[0] not in VERBS:
        known = {name.split()[0] for name in VERBS}
        close = get_close_matches(given[0].lower(), known, 1)
        hint = f"did you mean {close[0]}?" if close else "see riboray --help"
        print(f"riboray: unknown verb {given[0]!r}; {hint}", file=sys.stderr)
        return 2
    return run_verb(given[0], given[1:])


def run_verb(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run one verb; what ``jobs/NAME.py`` calls.

    Parameters
    ----------
    name : str
        A key of `VERBS`, or the first word of some: the second is the first argument then.
    arguments : sequence of str, optional
        ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        Exit code, as `main`.
    """
    from riboray.console import speaking
    from riboray.options import parse_command

    given = list(sys.argv[1:] if arguments is None else arguments)
    if kinds := kinds_of(name):
        if not given or given[0] in ("-h", "--help"):
            print("\n".join([f"usage: riboray {name} KIND [options]", "", *_lines(kinds)]))
            return 0 if given else 2
        if given[0] not in kinds:
            known = ", ".join(kinds)
            print(f"riboray {name}: unknown kind {given[0]!r}; known: {known}", file=sys.stderr)
            return 2
        name, given = verb_of([name, *given])
    verb = VERBS[name]
    # Else numba, where colorama is installed, resets the colours of a terminal that shows none.
    os.environ.setdefault("NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING", "1")
    if verb.one_thread:  # numpy, numba and torch read these when they are imported
        for variable in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
            os.environ.setdefault(f"{variable}_NUM_THREADS", "1")
    if threading.current_thread() is threading.main_thread():
        # SIGTERM (`kill`, `ray job stop`, a spot machine going away) ends a verb as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        config, manner = parse_command(name, verb.load_config(), given)  # --help ends here
        with speaking(manner):
            result = verb.load_function()(config)
    except RiborayError as error:
        print(f"riboray {name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"riboray {name}: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        reason = str(error.strerror or error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason += "; make room and give the same command again"
        print(f"riboray {name}: {where}{reason}", file=sys.stderr)
        # A path that cannot be used is the user's to mend; a full disk is nobody's mistake.
        wrong_path = PermissionError | NotADirectoryError | IsADirectoryError | FileNotFoundError
        return 2 if isinstance(error, wrong_path) else 1
    _print_result(verb, result, manner)
    return 0


def _print_result(verb: Verb, result: Any, manner: Manner) -> None:
    if manner.as_json:
        print(json.dumps(_finite(result), indent=2, default=str, allow_nan=False))
    elif result and (verb.prints == "answer" or (verb.prints == "summary" and not manner.quiet)):
        from riboray.console import listing

        print(listing(result))


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _overview() -> str:
    lines = [
        f"riboray {__version__}: an RNA language-model platform on Ray",
        "",
        "usage: riboray VERB [options]      riboray VERB --help      riboray --version",
        "",
        *_lines(VERBS),
    ]
    return "\n".join(lines)


def _lines(verbs: dict[str, Verb]) -> list[str]:
    width = max(map(len, verbs)) + 2
    return [f"  {name:<{width}}{verb.help}" for name, verb in verbs.items()]


if __name__ == "__main__":
    sys.exit(main())
