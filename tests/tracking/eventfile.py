"""A plain reader of TensorBoard's event files, and what TensorBoard makes of them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from tensorboardX.proto.event_pb2 import Event, SessionLog


class Point(NamedTuple):
    """What a file has at one step of one tag: a number, a text, or bare metadata (None)."""

    tag: str
    step: int
    when: float
    value: float | str | None


def crc32c(data: bytes) -> int:
    """CRC-32C by its definition, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    """A checksum as event files keep it."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(path: Path, *, whole: bool = True) -> list[Event]:
    """Every event of a file. One that breaks off must not be there, unless ``whole`` is false."""
    data, start, events = path.read_bytes(), 0, []
    while start < len(data):
        header = data[start : start + 8]
        end = start + 16 + int.from_bytes(header, "little")
        if end > len(data):
            assert not whole, f"{path} breaks off"
            break
        body = data[start + 12 : end - 4]
        assert struct.unpack_from("<I", data, start + 8) == (masked(header),)
        assert struct.unpack_from("<I", data, end - 4) == (masked(body),)
        events.append(Event.FromString(body))
        start = end
    return events


def files(folder: Path) -> list[Path]:
    """The event files of a folder in the order in which TensorBoard reads them."""
    return sorted(path for path in folder.iterdir() if "tfevents" in path.name)


def points_of(event: Event) -> list[Point]:
    """The points of one event."""
    points = []
    for value in event.summary.value:
        number: float | str | None = None
        if value.HasField("simple_value"):
            number = value.simple_value
        elif value.HasField("tensor"):
            number = value.tensor.string_val[0].decode()
        points.append(Point(value.tag, event.step, event.wall_time, number))
    return points


def stored(folder: Path, *, whole: bool = True) -> list[Point]:
    """All points that the files hold."""
    return [
        point
        for path in files(folder)
        for event in read_events(path, whole=whole)
        for point in points_of(event)
    ]


class OlderReader:
    """TensorBoard's older reader, looking on: the second START mark and later ones purge."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: set[str] = set()
        self._starts = 0
        self._shown: list[Point] = []

    def look(self) -> list[Point]:
        """Read the files that are new, and give what is shown now."""
        for path in files(self._folder):
            if path.name not in self._read:
                self._read.add(path.name)
                for event in read_events(path):
                    self._take(event)
        return self._shown

    def _take(self, event: Event) -> None:
        if event.session_log.status == SessionLog.START:
            self._starts += 1
            if self._starts > 1:
                self._shown = [point for point in self._shown if point.step < event.step]
        self._shown += points_of(event)


def as_read_from_the_start(folder: Path) -> list[Point]:
    """What TensorBoard's older reader shows of files it has not seen before."""
    return OlderReader(folder).look()


def as_fast_reader(folder: Path) -> list[Point]:
    """What its default reader shows: of each tag, no step that is not above all before it."""
    shown: dict[str, list[Point]] = {}
    for point in stored(folder):
        earlier = [p for p in shown.get(point.tag, []) if p.step < point.step]
        shown[point.tag] = [*earlier, point]
    return [point for points in shown.values() for point in points]


def curve(points: list[Point], tag: str) -> list[tuple[int, float | str | None]]:
    """Steps and values of one tag."""
    return [(point.step, point.value) for point in points if point.tag == tag]
