"""A guard against leaks that guards nothing must not be silent about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from riboray.corpus.ingestion import Inputs
from riboray.corpus.parts import EXCLUDE, Report, Source
from riboray.errors import CorpusError

__all__ = ["check_exclusions"]

#: Names shown of families that were not found.
_SHOWN = 8


def check_exclusions(
    sources: Sequence[Source],
    inputs: Inputs,
    seeds: dict[str, Any] | None,
    reports: Sequence[Report],
    say: Callable[[str], None],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Say what the files of sequences and the lists of families to exclude come to.

    Parameters
    ----------
    sources, inputs : sequence of Source, Inputs
        The files, and the names of families.
    seeds : dict, optional
        What the alignments hold.
    reports : sequence of dict
        What the parts hold.
    say : callable
        Receives lines for people.

    Returns
    -------
    files : list of dict
        Path, sequences read and sequences that cannot be used, of every file.
    missing : list of str
        Families that are in no alignment.

    Raises
    ------
    CorpusError
        If a file has no sequence that can be used.
    """
    files = []
    for source in sources:
        if source.role != EXCLUDE:
            continue
        notes = [note for note in reports if note["source"] == source.index]
        read, passed = (sum(note[name] for note in notes) for name in ("read", "passed"))
        if not passed:
            reason = f"no usable sequence to exclude among {read}"
            raise CorpusError(source.file.path, reason)
        files.append({"path": source.file.path, "read": read, "unusable": read - passed})
        if read > passed:
            say(f"warning: {read - passed:,} of {read:,} sequences to exclude cannot be used")
    missing = sorted(set(inputs.excluded_families) - set(seeds["matched"] if seeds else ()))
    if missing and seeds is not None:
        listed = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        every = len(inputs.excluded_families)
        say(f"warning: {len(missing)} of {every} families to exclude are in no alignment: {listed}")
    return files, missing
