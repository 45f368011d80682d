from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riboray.alignment import aligned_columns, count_aligned, gapped_strings


@st.composite
def gapped_pairs(draw):
    columns = draw(
        st.lists(
            st.tuples(st.sampled_from("ACGU-."), st.sampled_from("ACGU-.")), min_size=1, max_size=40
        )
    )
    return "".join(a for a, _ in columns), "".join(b for _, b in columns)


def plain_partners(row_a, row_b):
    partners, j = [], 0
    for a, b in zip(row_a, row_b, strict=True):
        if a not in "-.":
            partners.append(j if b not in "-." else -1)
        j += b not in "-."
    return partners


@given(gapped_pairs())
def test_columns_are_read_as_written(rows):
    columns = aligned_columns(*rows)
    assert columns.partners.tolist() == plain_partners(*rows)
    assert columns.sequence_a == rows[0].replace("-", "").replace(".", "")


@given(gapped_pairs())
def test_strings_and_partners_round_trip(rows):
    columns = aligned_columns(*rows)
    written = gapped_strings(columns.sequence_a, columns.sequence_b, columns.partners)
    again = aligned_columns(*written)
    assert again.partners.tolist() == columns.partners.tolist()
    assert (again.sequence_a, again.sequence_b) == (columns.sequence_a, columns.sequence_b)
    assert not any(a == b == "-" for a, b in zip(*written, strict=True))


def test_rows_of_different_length():
    with pytest.raises(ValueError, match="differ in length"):
        aligned_columns("AC", "A")


def test_counts():
    predicted = np.array([[0, 1, -1, 3], [0, -1, -1, -1]])
    reference = np.array([[0, 2, -1, 3], [-1, -1, -1, -1]])
    assert count_aligned(predicted, reference) == (2, 4, 3)
