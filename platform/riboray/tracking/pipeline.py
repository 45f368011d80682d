"""A run's newest numbers as Prometheus gauges, through Ray's metrics."""

from __future__ import annotations

import threading
import time
import weakref

import ray
from ray.util.metrics import Gauge

from riboray.tracking.courier import Status
from riboray.tracking.gauges import gauge_names, gauge_values
from riboray.tracking.records import Record

__all__ = ["RunGauges", "metrics_address"]

#: Ray sends a gauge on only if it was set since it last did so, which it does every ten seconds
#: (a second at least), and forgets it 20 s later. What changes rarely has to be set anew.
_REFRESH_SECONDS = 1.0


class RunGauges:
    """Shows the newest training record and the newest measurement of a run to Prometheus.

    A tracker. It works in any process that is connected to Ray: the driver's, or a worker's.

    Parameters
    ----------
    run_name : str
        Value of the label ``run``.

    Notes
    -----
    A number that the newest record lacks is no longer shown. After `close`, or when the process
    dies, all are gone within half a minute.
    """

    def __init__(self, run_name: str) -> None:
        self._gauges = {
            name: Gauge(name, description=description, tag_keys=("run",))
            for name, description in gauge_names().items()
        }
        self._tags = {"run": run_name}
        self._shown: dict[str, dict[str, float]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        arguments = (weakref.ref(self), self._closed)
        self._thread = threading.Thread(
            target=_refresh, args=arguments, name="run-gauges", daemon=True
        )
        self._thread.start()

    def log(self, record: Record) -> None:
        """Show a record, within a second; never waits."""
        if values := gauge_values(record, time.time()):
            with self._lock:
                self._shown[record["kind"]] = values

    def close(self, status: Status) -> None:
        """Show nothing any more."""
        self._closed.set()
        self._thread.join()

    def show(self) -> None:
        """Set every gauge to what it shows, so that Ray sends it on."""
        with self._lock:
            newest = {name: v for values in self._shown.values() for name, v in values.items()}
        for name, value in newest.items():
            self._gauges[name].set(value, tags=self._tags)


def metrics_address() -> str | None:
    """Return where Prometheus finds the metrics of the node that this process runs on.

    Returns
    -------
    str or None
        A URL; None if the node exports none.
    """
    here = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["NodeID"] == here and node["MetricsExportPort"] > 0:
            return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return None


def _refresh(reference: weakref.ref[RunGauges], closed: threading.Event) -> None:
    """Set the gauges anew until they are closed or, in a worker that ends early, forgotten."""
    while not closed.wait(_REFRESH_SECONDS):
        gauges = reference()
        if gauges is None:
            return
        gauges.show()
        del gauges
