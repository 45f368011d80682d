"""TensorBoard's event files, in the run directory."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from riboray.tracking.courier import Item, Status
from riboray.tracking.records import Record, flatten, labels, measurements

__all__ = ["EventFiles"]

_PREFIX = "events.out.tfevents."
_EVENT = "event"
_EVENT_TAG = f"{_EVENT}/text_summary"
#: Tags that hold for the whole run, whatever step they were written at.
_LASTING = ("config/", "_hparams_/")
#: Curves that TensorBoard's HPARAMS tab sets beside the configuration.
_OUTCOMES = ("validation/mlm_loss", "validation/mlm_accuracy", "validation/sal_f1")
#: A frame of an event file: length of the message and a checksum, the message, a checksum.
_HEAD, _TAIL = 12, 4


class _Text(NamedTuple):
    """Something that happened at a step."""

    step: int
    when: float
    text: str


class EventFiles:
    """A run's curves, events and configuration as TensorBoard reads them.

    Parameters
    ----------
    directory : Path
        The run directory; files go to ``tensorboard/`` below it.
    run_name : str
        Unused: TensorBoard names a run after its directory.
    config : dict
        The configuration, for the tabs TEXT and HPARAMS.
    resume_step : int
        Step that the run goes on from; 0 if it begins.

    Notes
    -----
    Where training goes back, after a resume or when a worker is lost, what was drawn from there on
    is taken out of the files, and a mark makes a TensorBoard that has read it already forget it.
    The mark alone would do for only one of TensorBoard 2's two readers: its default one knows no
    such mark, drops a curve's later points when it meets an earlier step, and so leaves those in
    between. Events are kept: they are written again, at the step that training went back to.
    """

    name = "tensorboard"
    batch = 1

    def __init__(
        self, directory: Path, run_name: str, config: dict[str, Any], resume_step: int
    ) -> None:
        self._directory = directory / "tensorboard"
        self._config = flatten(config)
        self._resume_step = resume_step
        self._file: Any = None
        self._trained = resume_step or -1
        self._newest = resume_step
        self._labels: dict[str, str] = {}
        self._event = _Text(-1, 0.0, "")

    def open(self) -> None:
        """Begin a file; take out what an earlier session drew after the step resumed from."""
        self._directory.mkdir(parents=True, exist_ok=True)
        now = time.time()
        if self._paths():
            self._go_back(self._resume_step + 1 if self._resume_step else 0, now)
        else:
            self._begin_file()
            self._mark(0, now)  # of several marks TensorBoard takes the first for the beginning
        self._write_config(now)
        self._file.flush()

    def write(self, items: list[Item]) -> None:
        """Write and sync records."""
        try:
            if self._file is None:
                self._begin_file()
            for when, record in items:
                self._write(record, when)
            self._file.flush()
        except BaseException:
            # A file that breaks off within an event is read up to there; what follows needs a
            # file of its own.
            self._end_file()
            raise

    def close(self, status: Status) -> None:
        """Note how the run ended."""
        from tensorboardX.summary import hparams

        step = self._newest
        message = {"kind": "event", "step": step, "message": f"the run {status}"}
        self.write([Item(time.time(), message)])
        if status == "finished":
            # Only then: of several endings TensorBoard shows the first for ever.
            self._put(hparams({}, {})[2], step, time.time())
            self._file.flush()
        self._end_file()

    def _write(self, record: Record, when: float) -> None:
        kind, step = record["kind"], int(record["step"])
        if kind == "event":
            self._write_event(_Text(step, when, record["message"]))
            return
        if kind == "train" and step <= self._trained:
            self._go_back(step, when)
        values = [{"tag": tag, "simple_value": v} for tag, v in measurements(record).items()]
        self._put_values(values, step, when)
        self._newest = step
        if kind == "train":
            self._trained = step
        for tag, text in labels(record).items():
            if self._labels.get(tag) != text:
                self._put_text(tag, text, step, when)
                self._labels[tag] = text

    def _write_event(self, event: _Text) -> None:
        """Write an event; with those before it at the same step, of which one would be shown."""
        if event.step == self._event.step:
            event = event._replace(text=f"{self._event.text}\n\n{event.text}")
        self._put_text(_EVENT, event.text, event.step, event.when)
        self._event = event

    def _go_back(self, step: int, when: float) -> None:
        """Undo what was drawn at ``step`` and later, and go on in a new file."""
        self._end_file()
        taken_out = [event for path in self._paths() for event in _take_out(path, step)]
        self._begin_file()
        self._mark(step, when)
        self._trained = step - 1
        self._labels, self._event = {}, _Text(-1, 0.0, "")
        for event in taken_out:
            text = f"(at step {event.step}) {event.text}"
            self._write_event(_Text(max(step - 1, 0), event.when, text))

    def _mark(self, step: int, when: float) -> None:
        """Make a TensorBoard that is looking on forget everything at ``step`` and later."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        start = SessionLog(status=SessionLog.START)
        self._file.write(Event(step=step, wall_time=when, session_log=start).SerializeToString())

    def _paths(self) -> list[Path]:
        """Return the files there are, in the order in which TensorBoard reads them."""
        return sorted(self._directory.glob(f"{_PREFIX}*"))

    def _begin_file(self) -> None:
        """Begin a file that TensorBoard, which goes by names, reads after all others."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import RecordWriter

        stamps = (path.name[len(_PREFIX) :].split(".")[0] for path in self._paths())
        later = [int(stamp) + 1 for stamp in stamps if stamp.isdigit()]
        stamp = max([int(time.time()), *later])
        name = f"{_PREFIX}{stamp:010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = RecordWriter(str(self._directory / name))
        version = Event(wall_time=time.time(), file_version="brain.Event:2")
        self._file.write(version.SerializeToString())

    def _end_file(self) -> None:
        """Close the file, if it will be closed: a full disk may refuse."""
        if self._file is not None:
            with suppress(Exception):
                self._file.close()
            self._file = None

    def _write_config(self, when: float) -> None:
        from tensorboardX.summary import hparams

        lines = [f"    {name}: {value}" for name, value in self._config.items()]
        self._put_text("config", "\n".join(lines), self._resume_step, when)
        experiment, start, _ = hparams(self._config, dict.fromkeys(_OUTCOMES))
        self._put(experiment, self._resume_step, when)
        self._put(start, self._resume_step, when)

    def _put_values(self, values: list[dict[str, Any]], step: int, when: float) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        self._put(Summary(value=[Summary.Value(**value) for value in values]), step, when)

    def _put_text(self, tag: str, text: str, step: int, when: float) -> None:
        from tensorboardX import summary

        self._put(summary.text(tag, text), step, when)

    def _put(self, summary: Any, step: int, when: float) -> None:
        from tensorboardX.proto.event_pb2 import Event

        event = Event(wall_time=when, step=step, summary=summary)
        self._file.write(event.SerializeToString())


def _take_out(path: Path, step: int) -> list[_Text]:
    """Rewrite a file without what was drawn at ``step`` and later; return the events among it."""
    from google.protobuf.message import DecodeError
    from tensorboardX.proto.event_pb2 import Event

    data = path.read_bytes()
    kept: list[bytes] = []
    events: list[_Text] = []
    for frame in _frames(data):
        try:
            event = Event.FromString(frame[_HEAD:-_TAIL])
        except DecodeError:  # TensorBoard reads no further either
            break
        tags = [value.tag for value in event.summary.value]
        if event.step < step or not tags or tags[0].startswith(_LASTING):
            kept.append(frame)
        elif tags == [_EVENT_TAG]:
            text = event.summary.value[0].tensor.string_val[0].decode()
            if events and events[-1].step == event.step:
                events.pop()  # each text at a step begins with those before it
            events.append(_Text(event.step, event.wall_time, text))
    if (content := b"".join(kept)) != data:
        # Beside the folder: TensorBoard would read a temporary file inside it.
        temporary = path.parent.with_name(f".{path.name}")
        try:
            with temporary.open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return events


def _frames(data: bytes) -> Iterator[bytes]:
    """Cut an event file into its frames; one that breaks off at the end is left out."""
    start = 0
    while start + _HEAD <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        end = start + _HEAD + length + _TAIL
        if end > len(data):
            return
        yield data[start:end]
        start = end
