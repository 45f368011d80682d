"""The curriculum is arithmetic: what ends a phase, and where a run stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riboray.errors import ConfigError
from riboray.options import parse_config
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.curriculum import (
    Phase,
    Position,
    advance,
    curriculum_progress,
    passes_made,
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": "mlm+xyz"}, "expected some of mlm, sal, ss and sfp"),
        ({"objectives": "mlm+mlm"}, "expected some of"),
        ({"objectives": ""}, "expected some of"),
        ({"steps": 5, "epochs": 1.0}, "one bound, not steps and epochs"),
        ({"steps": 0}, "steps must be positive"),
        ({"share": 1.5}, "at most 1"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
    ],
)
def test_phases_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        Phase(**options)


@pytest.mark.parametrize(
    ("curriculum", "message"),
    [
        ([], "no phase"),
        (
            [Phase(objectives="mlm"), Phase(objectives="sal")],
            "phase 1 of .* has no end",
        ),
        ([Phase(share=0.7), Phase(share=0.5)], "add up to 1.2"),
    ],
)
def test_curricula_that_cannot_be(curriculum, message):
    with pytest.raises(ConfigError, match=message):
        PretrainConfig(curriculum=curriculum)


def test_a_phase_without_weight_is_refused():
    with pytest.raises(ConfigError, match="weigh 0"):
        PretrainConfig(curriculum=[Phase(objectives="sal")], sal_weight=0)
    assert PretrainConfig(sal_weight=0).objectives == ("mlm",)


def test_the_order_of_objectives_does_not_matter():
    assert Phase(objectives="ss+sal+mlm") == Phase(objectives="mlm+sal+ss")


def test_the_command_line_and_yaml_name_phases(tmp_path):
    text = "[{objectives: mlm, steps: 100}, {objectives: sal+mlm, learning_rate: 0.5}]"
    wanted = [Phase(objectives="mlm", steps=100), Phase(objectives="mlm+sal", learning_rate=0.5)]
    given = parse_config("pretrain", PretrainConfig, ["--curriculum", text])
    assert given.curriculum == wanted
    file = tmp_path / "c.yaml"
    file.write_text(f"curriculum: {text}\nnum_workers: [1, 4]\n")
    given = parse_config("pretrain", PretrainConfig, ["--config", str(file)])
    assert given.curriculum == wanted
    assert given.worker_range == (1, 4)
    assert parse_config("pretrain", PretrainConfig, ["--num-workers", "3"]).worker_range == (3, 3)


@pytest.mark.parametrize("workers", [0, [2, 1], [1, 2, 3], [0, 2], []])
def test_impossible_numbers_of_workers(workers):
    with pytest.raises(ConfigError, match="num_workers"):
        PretrainConfig(num_workers=workers)


def test_three_phases_by_steps_and_passes():
    phases = [
        Phase(objectives="mlm", steps=3),
        Phase(objectives="mlm+sal", epochs=0.5),
        Phase(objectives="sal"),
    ]
    position, seen = Position(), []
    for step in range(12):
        # MLM makes a tenth of a pass a step, SAL, from step 3 on, a fifth.
        epochs = {"mlm": min(step, 8) / 10, "sal": max(step - 3, 0) / 5}
        position = advance(phases, position, step, epochs, 0.0)
        seen.append(position.phase)
    assert seen == [0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2]
    assert position.step == 8
    assert position.epochs == 1.0, "the passes SAL had made when its phase began"
    assert passes_made(phases, position, {"mlm": 0.8, "sal": 1.6}) == pytest.approx(0.8 + 0.6)


def test_passes_of_an_objective_without_data_are_those_of_the_next():
    phases = [Phase(objectives="mlm+sal", epochs=1.0)]
    assert advance(phases, Position(), 5, {"sal": 1.0}, 0.0).phase == 1
    assert advance(phases, Position(), 5, {"sal": 0.9}, 0.0).phase == 0


def test_shares_of_the_run():
    phases = [Phase(share=0.1), Phase(share=0.2), Phase()]
    position, seen = Position(), []
    for step in range(11):
        position = advance(phases, position, step, {}, step / 10)
        seen.append(position.phase)
    assert seen == [0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2]


phases_of_steps = st.lists(st.integers(1, 20), min_size=1, max_size=5)


@given(sizes=phases_of_steps)
def test_progress_rises_to_one_and_phases_last_as_long_as_they_say(sizes):
    phases = [Phase(steps=size) for size in sizes]
    position, before, lasted = Position(), -1.0, [0] * len(sizes)
    for step in range(sum(sizes)):
        position = advance(phases, position, step, {}, 0.0)
        progress = curriculum_progress(phases, position, step, {}, 0.0)
        assert before < progress < 1
        assert progress == pytest.approx(step / sum(sizes))
        before = progress
        lasted[position.phase] += 1
    assert lasted == sizes
    position = advance(phases, position, sum(sizes), {}, 0.0)
    assert position.phase == len(phases)
    assert curriculum_progress(phases, position, sum(sizes), {}, 0.0) == 1.0


@given(sizes=phases_of_steps, stops=st.sets(st.integers(0, 60)))
def test_looking_more_rarely_changes_nothing_once_looked(sizes, stops):
    """A position is a function of what is told, whatever was asked in between."""
    phases = [*(Phase(steps=size) for size in sizes), Phase()]
    every, some = Position(), Position()
    for step in range(61):
        every = advance(phases, every, step, {}, 0.0)
        if step in stops:
            # Phases passed while nobody looked begin late; so both look at every step.
            some = advance(phases, Position(*every), step, {}, 0.0)
            assert some == every


def test_a_curriculum_without_end_has_no_progress():
    assert curriculum_progress([Phase(steps=5), Phase()], Position(1, 5), 50, {}, 0.0) == 0.0
    assert not PretrainConfig(curriculum=[Phase(steps=5), Phase()]).has_end
    assert PretrainConfig(curriculum=[Phase(steps=5), Phase(epochs=1)]).has_end
    assert not PretrainConfig(curriculum=[Phase(share=0.5), Phase(share=0.5)]).has_end
