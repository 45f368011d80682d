"""Prometheus gauges: names and values, and a real Ray scraped over HTTP."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from riboray.tracking.gauges import gauge_names, gauge_values
from tests.tracking.helpers import event, train, validation


def test_a_training_record_sets_its_gauges():
    record = train(
        7, tokens_per_s=1e4, mlm_loss=1.5, data_wait=0.25, objectives="mlm", sal_loss=None
    )
    assert gauge_values(record, 99.5) == {
        "riboray_pretrain_step": 7.0,
        "riboray_pretrain_progress": 0.007,
        "riboray_pretrain_elapsed_seconds": 14.0,
        "riboray_pretrain_tokens_per_second": 1e4,
        "riboray_pretrain_mlm_loss": 1.5,
        "riboray_pretrain_data_wait_share": 0.25,
        "riboray_pretrain_record_time_seconds": 99.5,
    }


def test_a_measurement_sets_its_own_and_nan_none():
    record = validation(7, mlm_loss=1.5, sal_f1=math.nan, best=True)
    assert gauge_values(record, 1.0) == {
        "riboray_pretrain_validation_step": 7.0,
        "riboray_pretrain_validation_mlm_loss": 1.5,
    }


def test_an_event_sets_nothing():
    assert gauge_values(event(7, "a worker was lost"), 1.0) == {}


def test_names_are_prometheus_names_and_every_one_is_documented(root):
    text = (root / "docs" / "observability.md").read_text("utf-8")
    documented = set(re.findall(r"`ray_(riboray_pretrain_\w+)`", text))
    assert documented == set(gauge_names())
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in gauge_names())


SCRIPT = r"""
import json, os, sys, time, urllib.request

os.environ["RAY_metrics_report_interval_ms"] = "1000"  # 10 s by default; all else follows from it
from riboray.rayenv import prepare_ray

address = prepare_ray("local")
from riboray.pipeline import connect

LINE = r'ray_(riboray_\w+)\{.*run="([^"]*)".*\} (\S+)'
no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def scrape():
    import re

    try:
        with no_proxy.open(where, timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    found = (re.match(LINE, line) for line in text.splitlines())
    return {f"{m[2]} {m[1]}": float(m[3]) for m in found if m}


def wait_for(condition):
    end = time.monotonic() + 90
    while not condition(shown := scrape()):
        assert time.monotonic() < end, shown
        time.sleep(0.2)
    return shown


with connect(address, cpus=1):
    import ray

    from riboray.tracking.pipeline import RunGauges, metrics_address

    where = metrics_address()
    assert where.startswith("http://127.0.0.1:"), where
    report = {}
    gauges = RunGauges("mine")
    gauges.log({"kind": "validation", "step": 4, "progress": 0.1, "elapsed_s": 1.0, "sal_f1": 0.5})
    gauges.log({"kind": "train", "step": 4, "progress": 0.1, "elapsed_s": 1.0, "sal_loss": 2.5})
    report["first"] = wait_for(lambda shown: "mine riboray_pretrain_step" in shown)
    # Six reports of Ray's later, three times as long as it keeps what is not set anew:
    time.sleep(6)
    report["later"] = scrape()
    gauges.log({"kind": "train", "step": 9, "progress": 0.2, "elapsed_s": 2.0, "mlm_loss": 1.5})
    report["second"] = wait_for(
        lambda shown: shown.get("mine riboray_pretrain_step") == 9
        and "mine riboray_pretrain_sal_loss" not in shown
    )

    @ray.remote(num_cpus=0)
    def work():
        gauges = RunGauges("theirs")
        gauges.log({"kind": "train", "step": 3, "progress": 0.1, "elapsed_s": 1.0})
        time.sleep(4)

    task = work.remote()
    report["worker"] = wait_for(lambda shown: "theirs riboray_pretrain_step" in shown)
    ray.get(task)
    report["after the task"] = wait_for(lambda shown: "theirs riboray_pretrain_step" not in shown)
    gauges.close("finished")
    report["closed"] = wait_for(lambda shown: not shown)
    left_open = RunGauges("open")
    left_open.log({"kind": "train", "step": 3, "progress": 0.1, "elapsed_s": 1.0})
time.sleep(2.5)  # its thread goes on without a Ray
left_open.close("failed")
print(json.dumps(report))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_gauges_are_there_for_prometheus_until_the_run_ends(root):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment["PYTHONPATH"] = str(root / "platform")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    for moment in ("first", "later"):
        shown = report[moment]
        assert shown["mine riboray_pretrain_step"] == 4
        assert shown["mine riboray_pretrain_sal_loss"] == 2.5
        assert shown["mine riboray_pretrain_validation_sal_f1"] == 0.5
        assert shown["mine riboray_pretrain_validation_step"] == 4
        assert abs(shown["mine riboray_pretrain_record_time_seconds"] - 1.7e9) < 1e9
    # The newest record counts alone; the last measurement stays.
    assert report["second"]["mine riboray_pretrain_mlm_loss"] == 1.5
    assert report["second"]["mine riboray_pretrain_validation_sal_f1"] == 0.5
    assert report["worker"]["theirs riboray_pretrain_step"] == 3
    assert report["worker"]["mine riboray_pretrain_step"] == 9
    assert report["after the task"]["mine riboray_pretrain_step"] == 9
    assert report["closed"] == {}


@pytest.mark.parametrize("port", [0, -1])
def test_a_node_that_exports_nothing_has_no_address(port, monkeypatch):
    """Ray without its dashboard's packages says port -1."""
    from riboray.tracking import pipeline

    node = {"NodeID": "a", "NodeManagerAddress": "127.0.0.1", "MetricsExportPort": port}
    here = SimpleNamespace(get_node_id=lambda: "a")
    monkeypatch.setattr(pipeline.ray, "get_runtime_context", lambda: here)
    monkeypatch.setattr(pipeline.ray, "nodes", lambda: [node])
    assert pipeline.metrics_address() is None
