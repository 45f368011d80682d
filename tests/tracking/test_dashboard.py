"""The dashboard for Grafana asks for numbers that there are."""

from __future__ import annotations

import json
import re

from prometheus_client.parser import text_string_to_metric_families

from riboray.serving.metrics import Metrics
from riboray.tracking.gauges import gauge_names


def test_every_number_exists(root):
    dashboard = json.loads((root / "docs" / "grafana" / "riboray.json").read_text())
    asked = " ".join(
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])
    )
    metrics = Metrics()
    metrics.watch(lambda: 0)
    metrics.tell_apart(["/v1/embed"])
    metrics.count("/v1/embed", 200, 0.1)
    metrics.timed(lambda items: items, lambda item: 1)([1])
    text = metrics.text().decode()
    served = {s.name for family in text_string_to_metric_families(text) for s in family.samples}
    trained = {f"ray_{name}" for name in gauge_names()}
    found = set(re.findall(r"\b(?:ray_)?riboray_\w+", asked))
    assert found, "it asks for something"
    assert found <= served | trained, found - served - trained
    assert len(found & served) >= 5
    assert len(found & trained) >= 10


def test_panels_do_not_overlap(root):
    dashboard = json.loads((root / "docs" / "grafana" / "riboray.json").read_text())
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
