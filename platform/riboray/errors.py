"""Every error a user can cause, each with the fields a program needs and a message for a person.

The command line prints ``str(error)`` on one line and exits with ``error.exit_code``: 2 for bad
input or configuration, 1 for a failure of riboray itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = [
    "CheckpointError",
    "ConfigError",
    "CorpusError",
    "FastaError",
    "InputError",
    "InvalidSequenceError",
    "OutputError",
    "RiborayError",
    "StockholmError",
    "VocabularyError",
]


class RiborayError(Exception):
    """Base of all errors that riboray raises on purpose."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Let an error travel between processes with its fields, whatever its signature."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[RiborayError], args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class ConfigError(RiborayError, ValueError):
    """A configuration value, or a combination of values, that cannot work."""

    exit_code = 2


class OutputError(RiborayError):
    """An output directory that cannot be used, for example because another run made it."""

    exit_code = 2

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason


class InputError(RiborayError):
    """An input file that cannot be used.

    Parameters
    ----------
    path : str or Path
        The offending file.
    reason : str
        What is wrong and what to do about it.
    record : int or str, optional
        Record number (1-based) or name inside the file.
    """

    exit_code = 2

    def __init__(self, path: str | Path, reason: str, record: int | str | None = None) -> None:
        where = f"{path}" if record is None else f"{path}, record {record}"
        super().__init__(f"{where}: {reason}")
        self.path = Path(path)
        self.reason = reason
        self.record = record


class FastaError(InputError):
    """A FASTA file that is missing, damaged or something else."""


class StockholmError(InputError):
    """A Stockholm file that is missing, damaged or something else."""


class CorpusError(InputError):
    """A corpus directory or table that lacks what is needed from it."""


class CheckpointError(InputError):
    """A checkpoint that cannot be read, with the keys that do not fit.

    Parameters
    ----------
    path : str or Path
        The checkpoint file or directory.
    reason : str
        What is wrong.
    missing, unexpected : sequence of str
        State-dict keys the model needs and the file lacks, and the other way round.
    """

    def __init__(
        self,
        path: str | Path,
        reason: str,
        missing: tuple[str, ...] = (),
        unexpected: tuple[str, ...] = (),
    ) -> None:
        details = [
            f"{label}: {', '.join(keys[:6])}{f' and {len(keys) - 6} more' if len(keys) > 6 else ''}"
            for label, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        super().__init__(path, "; ".join([reason, *details]))
        self.missing = missing
        self.unexpected = unexpected


class VocabularyError(CheckpointError):
    """A checkpoint whose vocabulary is not the one expected. Never guessed around."""


class InvalidSequenceError(RiborayError, ValueError):
    """A sequence with a character that the vocabulary has no token for.

    Parameters
    ----------
    index : int
        Position of the sequence in the batch given.
    position : int
        0-based position of the character in the sequence.
    character : str
        The character itself.
    vocabulary : str
        Name of the vocabulary.
    """

    exit_code = 2

    def __init__(self, index: int, position: int, character: str, vocabulary: str) -> None:
        super().__init__(
            f"sequence {index}: character {character!r} at position {position + 1} "
            f"is no nucleotide of the {vocabulary!r} vocabulary"
        )
        self.index = index
        self.position = position
        self.character = character
        self.vocabulary = vocabulary
