"""What trackers draw from a record."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from riboray.pretraining.config import PretrainConfig
from riboray.tracking.records import flatten, labels, measurements
from tests.tracking.helpers import event, train, validation

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-9, 9),
    st.floats(allow_nan=False),
    st.text("x .{}é\n", max_size=4),
)
names = st.sampled_from(["model", "seed", "learning_rate", "corpus", "gaps"])
configs = st.recursive(
    st.dictionaries(names, leaves, max_size=4),
    lambda inner: st.dictionaries(names, leaves | inner, max_size=4),
    max_leaves=12,
)


def test_numbers_are_named_after_their_kind():
    record = train(5, mlm_loss=1.5, workers=2, objectives="mlm", learning_rate=np.float32(0.5))
    assert measurements(record) == {
        "train/progress": 0.005,
        "train/elapsed_s": 10.0,
        "train/mlm_loss": 1.5,
        "train/workers": 2.0,
        "train/learning_rate": 0.5,
    }
    assert labels(record) == {"train/objectives": "mlm"}


def test_what_was_not_measured_is_left_out_and_infinity_is_not():
    record = validation(5, sal_f1=math.nan, sal_ppv=None, mlm_loss=math.inf, best=True)
    assert measurements(record) == {"validation/mlm_loss": math.inf, "validation/best": 1.0}


def test_an_event_has_no_numbers():
    assert measurements(event(3, "a worker was lost")) == {}


@given(configs)
def test_flattening_loses_nothing(config):
    flat = flatten(config)
    for name, value in flat.items():
        inner = config
        *path, last = name.split(".")
        for part in path:
            inner = inner[part]
        assert inner[last] == value or (inner[last] == {} and value == "{}")
    assert len(flat) == count_leaves(config)


def count_leaves(config):
    inner = [value for value in config.values() if isinstance(value, dict) and value]
    return len(config) - len(inner) + sum(map(count_leaves, inner))


def test_a_real_configuration_becomes_plain_values():
    flat = flatten(asdict(PretrainConfig(corpus=["a.fa", "b.fa"])))
    assert flat["model.hidden_size"] == 120
    assert json.loads(flat["corpus"]) == ["a.fa", "b.fa"]
    assert flat["max_steps"] is None
    assert all(v is None or isinstance(v, bool | int | float | str) for v in flat.values())
