import pytest
from hypothesis import given
from hypothesis import strategies as st

from riboray.alphabet import MULTIMOLECULE, ORIGINAL, encode
from riboray.errors import ConfigError
from riboray.serving.errors import ErrorCode, ServiceError
from riboray.serving.inputs import (
    MASK,
    Entry,
    Limits,
    check_entries,
    check_masked,
    read_fasta_body,
)

SMALL = Limits(sequences=4, length=10, nucleotides=25, id_characters=5)


def check(*texts, limits=SMALL, vocabulary=MULTIMOLECULE):
    return check_entries([(None, text) for text in texts], vocabulary, limits)


def test_sequences_are_cleaned():
    assert check("acgt\nAC GU") == [Entry("ACGUACGU")]
    assert check("ACGUN", limits=Limits()) == [Entry("ACGUN")]


@pytest.mark.parametrize(
    ("text", "code", "position", "words"),
    [
        ("", "invalid_sequence", None, "empty"),
        (" \n", "invalid_sequence", None, "empty"),
        ("ACGZ", "invalid_sequence", 3, "'Z' at position 4 is no nucleotide"),
        ("AC\0", "invalid_sequence", 2, "at position 3"),
        ("äACG", "invalid_sequence", 0, "at position 1"),
        ("ACß", "invalid_sequence", 2, "at position 3"),
        ("ACG\u200bU", "invalid_sequence", 3, "at position 4"),
        ("A" * 11, "too_large", None, "11 nucleotides are more than the 10"),
    ],
)
def test_one_that_is_wrong_does_not_keep_the_others(text, code, position, words):
    first, wrong, last = check("ACG", text, "GGG")
    assert (first, last) == (Entry("ACG"), Entry("GGG"))
    assert (wrong.code, wrong.index, wrong.position) == (ErrorCode(code), 1, position)
    assert words in str(wrong)


def test_too_much():
    for texts, words in ((["A"] * 5, "more than 4 sequences"), (["A" * 9] * 3, "25 nucleotides")):
        with pytest.raises(ServiceError, match=words) as told:
            check(*texts)
        assert told.value.code is ErrorCode.TOO_LARGE
    with pytest.raises(ServiceError, match="no sequence") as told:
        check()
    assert told.value.code.status == 400
    (wrong,) = check_entries([("x" * 6, "ACG")], MULTIMOLECULE, SMALL)
    assert "name" in str(wrong)
    with pytest.raises(ConfigError, match="length must be at least 1"):
        Limits(length=0)


@given(st.text(max_size=30), st.sampled_from([MULTIMOLECULE, ORIGINAL]))
def test_what_passes_can_be_encoded(text, vocabulary):
    (found,) = check(text, limits=Limits(), vocabulary=vocabulary)
    if isinstance(found, Entry):
        encode([found.sequence], vocabulary)
    else:
        assert found.code is ErrorCode.INVALID_SEQUENCE


@pytest.mark.parametrize("vocabulary", [MULTIMOLECULE, ORIGINAL])
def test_hidden_nucleotides(vocabulary):
    texts = [f"AC{MASK}GU{MASK}", f"{MASK}{MASK} A", "ACGU", f"{MASK}Z", MASK * 9]
    checked = check_masked([("x", t) for t in texts], vocabulary, Limits(), 8)
    assert checked[0] == Entry("ACAGUA", "x", (2, 5))
    assert checked[1] == Entry("AAA", "x", (0, 1))
    for number, words in ((2, "nothing in it is hidden"), (3, "'Z' at position 2"), (4, "model's")):
        assert words in str(checked[number])
        assert checked[number].index == number


def test_fasta():
    body = "\ufeff\n>a first\r\nAC\r\nGU\r\n>\r\nGG\n".encode()
    assert read_fasta_body(body) == [("a", "ACGU"), (None, "GG")]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "begin with >"),
        (b"ACGU", "begin with >"),
        (b"@x\nACGU\n+\nIIII\n", "begin with >"),
        (b">a\nAC\0GU\n", "NUL"),
        (b">a\rACGU\r", "carriage returns"),
        (b">\xff\nACGU\n", "not UTF-8"),
        (b"\x1f\x8b\x08\0", "begin with >"),
    ],
)
def test_bodies_that_are_no_fasta(body, words):
    with pytest.raises(ServiceError, match=words) as told:
        read_fasta_body(body)
    assert told.value.code is ErrorCode.MALFORMED
