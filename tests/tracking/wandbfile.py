"""A plain reader of the files that W&B keeps a run in."""

from __future__ import annotations

import json
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, FIRST, MIDDLE = 32768, 2, 3


def read_records(path: Path) -> list[Record]:
    """Records of a ``.wandb`` file: a header of 7 bytes, then LevelDB's log format."""
    data, start, whole, part = path.read_bytes(), 7, [], b""
    while start + 7 <= len(data):
        if BLOCK - start % BLOCK < 7:  # no room for a chunk's header: the rest is padding
            start += BLOCK - start % BLOCK
            continue
        length, kind = int.from_bytes(data[start + 4 : start + 6], "little"), data[start + 6]
        part += data[start + 7 : start + 7 + length]
        if kind not in (FIRST, MIDDLE):
            whole.append(Record.FromString(part))
            part = b""
        start += 7 + length
    return whole


def rows(path: Path) -> list[dict]:
    """What was logged, row by row, without W&B's own fields except the step."""
    found = []
    for record in read_records(path):
        if record.WhichOneof("record_type") == "history":
            items = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
            values = {key: json.loads(text) for key, text in items.items()}
            hidden = [key for key in values if key.startswith("_") and key != "_step"]
            found.append({key: v for key, v in values.items() if key not in hidden})
    return found


def run_of(path: Path):
    """The run's own record: id, name, project, configuration."""
    [record] = [r.run for r in read_records(path) if r.WhichOneof("record_type") == "run"][:1]
    return record


def exit_code(path: Path) -> int:
    """How the run ended."""
    codes = [r.exit.exit_code for r in read_records(path) if r.WhichOneof("record_type") == "exit"]
    return codes[-1]


def summary(path: Path) -> dict:
    """The last value of everything."""
    values: dict = {}
    for record in read_records(path):
        if record.WhichOneof("record_type") == "summary":
            for item in record.summary.update:
                values[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return values
