"""What labels are about is found out, and labels that do not fit are told with their record."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from riboray.errors import ConfigError, InputError
from riboray.finetuning.config import FinetuneConfig
from riboray.finetuning.records import Labelled, Place
from riboray.finetuning.targets import UnknownClass, contact_rows, encode_label, pair_marks
from riboray.finetuning.tasks import Task, find_task
from riboray.model.prediction import MISSING, HeadConfig

SEQUENCES = ["GGGAAACCC", "GGAAACC", "ACGUACGUAA"]


def made(labels, sequences=SEQUENCES):
    pairs = zip(labels, sequences, strict=False)
    return [
        Labelled(f"r{k}", sequence, label, None, None, Place("t.csv", k + 1))
        for k, (label, sequence) in enumerate(pairs)
    ]


def found(labels, head=None, **options):
    return find_task(made(labels), FinetuneConfig(train=["t.csv"], **options), head)


@pytest.mark.parametrize(
    ("labels", "level", "problem", "names"),
    [
        (["yes", "no", "no"], "sequence", "binary", ("no", "yes")),
        (["b", "a", "c"], "sequence", "multiclass", ("a", "b", "c")),
        (["0", "1", "1"], "sequence", "binary", ("0", "1")),
        ([2, 0, 10], "sequence", "multiclass", ("0", "2", "10")),
        (["1.5", "2", "-3"], "sequence", "regression", ("value",)),
        ([0.5, 1.0, 2.0], "sequence", "regression", ("value",)),
        ([[1.0, 2.5], [0.1, 3.0], [1.0, 1.0]], "sequence", "regression", ("value 0", "value 1")),
        ([["a"], ["b", "a"], []], "sequence", "multilabel", ("a", "b")),
        ([[0] * 9, [1] * 7, [0, 1] * 5], "nucleotide", "binary", ("0", "1")),
        ([[0.5] * 9, [1.5] * 7, [0.1] * 10], "nucleotide", "regression", ("value",)),
        (["EEESSSEEE", "EESSSEE", "HHHHEEESSS"], "nucleotide", "multiclass", ("E", "H", "S")),
        (["(((...)))", "((...))", ".........."], "contact", "binary", ("no pair", "pair")),
        (["<<<___>>>", "<<...>>", "::<<_.A>>a"], "contact", "binary", ("no pair", "pair")),
        ([[[0, 1]] * 9, [[1, 1]] * 7, [[0, 0]] * 10], "nucleotide", "multilabel", None),
    ],
)
def test_tasks_are_inferred(labels, level, problem, names):
    task = found(labels)
    assert (task.level, task.problem) == (level, problem)
    assert names is None or task.labels == names


def test_a_matrix_is_of_pairs():
    matrices = [np.eye(len(s)).astype(int).tolist() for s in SEQUENCES]
    task = found(matrices)
    assert (task.level, task.problem) == ("contact", "binary")


def test_what_is_said_goes_first():
    structures = ["(((...)))", "((...))", ".........."]
    assert found(structures, level="nucleotide").labels == ("unpaired", "paired")
    assert found(["1", "2", "1"], problem="regression").problem == "regression"
    assert found(["a;b", "a", "c"], problem="multilabel").labels == ("a", "b", "c")
    assert found(["yes", "no", "no"], classes=["yes", "no"]).labels == ("yes", "no")
    with pytest.raises(ConfigError, match="binary problem"):
        found(structures, problem="regression")
    with pytest.raises(InputError, match="record 1: .*structure"):
        found(structures, level="sequence")


def test_one_value_that_is_no_number_is_a_mistake_and_no_class():
    sequences = ["ACGU" + "A" * k for k in range(50)]
    records = made([*[f"{k}.5" for k in range(49)], "high"], sequences)
    task = find_task(records, FinetuneConfig(train=["t.csv"]), None)
    assert task.problem == "regression"
    with pytest.raises(InputError, match="record 50: its label 'high' is no number"):
        encode_label(records[-1], task)


def test_a_head_that_does_not_fit_is_told_with_a_record():
    head = HeadConfig(level="nucleotide", problem="binary", labels=("0", "1"))
    with pytest.raises(InputError, match=r"record 1: .*multiclass.*--new-head"):
        found(["b", "a", "c"], head)
    head = HeadConfig(level="sequence", problem="multiclass", labels=("a", "b"))
    with pytest.raises(InputError, match=r"record 1: .*--new-head"):
        found(["b", "a", "c"], head)
    head = HeadConfig(level="sequence", problem="multiclass", labels=("c", "b", "a", "d"))
    assert found(["b", "a", "c"], head).labels == ("c", "b", "a", "d")


def encode(label, task, sequence=SEQUENCES[0]):
    return encode_label(made([label], [sequence])[0], task)


CLASSES = Task("sequence", "multiclass", ("a", "b"))
TRACK = Task("nucleotide", "multiclass", ("E", "S"))
NUMBERS = Task("sequence", "regression", ("p", "q"))
PAIRS = Task("contact", "binary", ("no pair", "pair"), structures=True)
MATRIX = Task("contact", "regression", ("value",))


@pytest.mark.parametrize(
    ("label", "task", "told"),
    [
        ("c", CLASSES, "class 'c' is none of 'a', 'b'"),
        ("EES", TRACK, "a label of 3 items for 9 nucleotides"),
        ([1.0], NUMBERS, "1 numbers, where others have 2"),
        (["x", 2], NUMBERS, "'x' is no number"),
        ([1, float("inf")], NUMBERS, "not a finite number"),
        ("((..))", PAIRS, "a structure of 6 symbols for 9 nucleotides"),
        ("((((..)))", PAIRS, "never closed"),
        ([[1]], MATRIX, "a label of 1 items for 9"),
        ([[1]] * 9, MATRIX, "no matrix of 9 by 9"),
        ([[k] * 9 for k in range(9)], MATRIX, "not symmetric"),
        (3, TRACK, "not one for each nucleotide"),
    ],
)
def test_labels_that_do_not_fit_are_told_with_their_record(label, task, told):
    with pytest.raises(InputError, match=f"t.csv, record 1: .*{told}") as caught:
        encode(label, task)
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, UnknownClass) == ("none of" in told)


def test_labels_become_numbers():
    assert encode("b", CLASSES) == 1
    assert encode(None, CLASSES) == MISSING
    assert encode("EESSEESSE", TRACK).tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 0]
    found = encode([1.5, None], NUMBERS)
    assert found[0] == 1.5
    assert np.isnan(found[1])
    several = Task("sequence", "multilabel", ("a", "b", "c"))
    assert encode("a; c", several).tolist() == [1, 0, 1]
    assert encode([0, 1, 1], several).tolist() == [0, 1, 1]
    assert encode("(((...)))", PAIRS).tolist() == [[0, 8], [1, 7], [2, 6]]
    paired = Task("nucleotide", "binary", ("unpaired", "paired"), structures=True)
    assert encode("((.<.))>.", paired)[:, 0].tolist() == [1, 1, 0, 1, 0, 1, 1, 1, 0]


@given(st.data())
def test_pairs_and_their_matrix_are_the_same_labels(data):
    length = data.draw(st.integers(2, 30))
    order = data.draw(st.permutations(range(length)))
    count = data.draw(st.integers(0, length // 2))
    pairs = [sorted(order[2 * k : 2 * k + 2]) for k in range(count)]
    matrix = np.zeros((length, length), np.float32)
    for i, j in pairs:
        matrix[i, j] = matrix[j, i] = 1
    stored = np.array(sorted(pairs), np.int32).reshape(-1, 2)
    rows = contact_rows(stored, length)
    assert np.array_equal(rows[:, 0], contact_rows(matrix, length))
    naive = [bool(matrix[i, j]) for i in range(length) for j in range(i + 1, length)]
    assert pair_marks(stored, length).tolist() == naive
