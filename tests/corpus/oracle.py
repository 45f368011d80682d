"""Ingesting as one would write it on an afternoon: plain Python, everything in memory."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from dataclasses import dataclass, field

from riboray.batching import window_starts
from riboray.corpus.records import hash64

BLANKS = " \t\n\r\x0b\x0c"
CODES = "NRYSWKMBDHVX"


def read(path):
    """Yield (number, id, description, sequence) of a FASTA file's records."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    number, header, lines = 0, None, []
    for line in [*text.split("\n"), ">"]:
        if line.startswith(">"):
            if header is not None:
                number += 1
                head = header.rstrip(BLANKS)
                word = head
                for i, c in enumerate(head):
                    if c in BLANKS:
                        word = head[:i]
                        break
                description = head[len(word) :].strip(BLANKS)
                yield number, word, description, "".join(lines)
            header, lines = line[1:], []
        elif header is not None:
            lines.append(line.lstrip(" \t").rstrip(BLANKS))


@dataclass
class Result:
    kept: list = field(default_factory=list)  # id, sequence, description
    duplicates: list = field(default_factory=list)  # file, record, id, kept id
    out: list = field(default_factory=list)  # file, record, id, outcome
    long: list = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)
    nothing_to_exclude: bool = False


def outcome_of(name, sequence, options):
    """What happens to one record, before its sequence is compared with others."""
    n = len(sequence)
    codes = sum(sequence.count(c) for c in CODES)
    if not name or not n or set(sequence) - set("ACGU" + CODES):
        return "rejected"
    if n < options.get("min_length", 10):
        return "filtered"
    if n > options.get("max_length", 440) and options.get("on_long", "reject") == "reject":
        return "rejected"
    if codes and options.get("ambiguity", "keep") == "reject":
        return "rejected"
    if codes == n:
        return "rejected"
    if codes > options.get("max_ambiguity", 1.0) * n:
        return "filtered"
    taxids = options.get("taxid", [])
    found = re.fullmatch(r"URS[0-9A-Fa-f]{10}_(\d{1,10})", name)
    if taxids and not (found and int(found[1]) in taxids):
        return "filtered"
    return None


def pieces_of(name, sequence, options):
    width = options.get("max_length", 440)
    if len(sequence) <= width:
        return [(name, sequence)]
    windows = options.get("on_long") == "window"
    starts = window_starts(len(sequence), width) if windows else [0]
    share = {s: sum(c in CODES for c in sequence[s : s + width]) for s in starts}
    most = options.get("max_ambiguity", 1.0) * width if windows else width
    spans = [s for s in starts if share[s] < width and share[s] <= most]
    if not spans and min(share.values()) < width:
        spans = [min(starts, key=share.get)]
    if not spans:
        first = next(i for i, c in enumerate(sequence) if c in "ACGU")
        spans = [min(first, len(sequence) - width)]
    return [(f"{name}/{s + 1}-{s + width}", sequence[s : s + width]) for s in spans]


def ingest(paths, excluded=(), **options):
    """Do it record by record, in the order of the input."""
    result = Result()
    forbidden = set()
    for path in excluded:
        usable = 0
        for _, _, _, text in read(path):
            sequence = text.upper().replace("T", "U").translate(str.maketrans("", "", "-.~_*"))
            if outcome_of("x", sequence, {"min_length": 1, "max_length": 10**9}) is None:
                usable += 1
                long = options.get("on_long", "reject") != "reject"
                pieces = pieces_of("x", sequence, options) if long else [("x", sequence)]
                forbidden |= {s for _, s in pieces}
        if not usable:
            result.nothing_to_exclude = True
            return result
    by_sequence = {}
    uses = Counter()
    suffixed = []
    for path in paths:
        for record, name, description, text in read(path):
            where = (str(path), record, name)
            sequence = text.upper().replace("T", "U")
            result.counts["sequences_read"] += 1
            outcome = outcome_of(name, sequence, options)
            if outcome is not None:
                result.counts[f"sequences_{outcome}"] += 1
                result.out.append((*where, outcome))
                continue
            pieces = pieces_of(name, sequence, options)
            if len(sequence) > options.get("max_length", 440):
                result.long.append(where)
            for k, (piece_name, piece) in enumerate(pieces):
                kind = "windows" if k else "sequences"
                result.counts["windows_read"] += k > 0
                if piece in forbidden:
                    result.counts[f"{kind}_filtered"] += 1
                    result.out.append((str(path), record, piece_name, "filtered"))
                elif piece in by_sequence:
                    result.counts[f"{kind}_duplicates"] += 1
                    result.duplicates.append((str(path), record, piece_name, piece))
                elif uses[piece_name] and options.get("duplicate_ids") == "reject":
                    result.counts[f"{kind}_rejected"] += 1
                    result.out.append((str(path), record, piece_name, "rejected"))
                else:
                    result.counts[f"{kind}_kept"] += 1
                    row = [piece_name, piece, description or None]
                    by_sequence[piece] = row
                    result.kept.append(row)
                    uses[piece_name] += 1
                    if uses[piece_name] > 1:
                        suffixed.append(row)
    _rename(result, suffixed)
    result.duplicates = [(f, r, n, by_sequence[s][0]) for f, r, n, s in result.duplicates]
    result.kept = sorted(result.kept, key=lambda row: (hash64(row[1]), row[1]))
    result.counts = {k: v for k, v in result.counts.items() if v}
    return result


def _rename(result, suffixed):
    """Second and later sequences of an id: .2, .3, … where that is free."""
    taken = {row[0] for row in result.kept}
    groups = {}
    for row in suffixed:
        groups.setdefault(row[0], []).append(row)
    order = {row[0]: k for k, row in reversed(list(enumerate(result.kept)))}
    for name in sorted(groups, key=lambda n: order[n]):
        number = 1
        for row in groups[name]:
            while True:
                number += 1
                candidate = f"{name}.{number}"
                if candidate not in taken:
                    break
            taken.add(candidate)
            row[0] = candidate
