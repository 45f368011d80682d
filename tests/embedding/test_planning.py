"""Parts, counts and names of an input, against the plain reader that takes all of it at once."""

from __future__ import annotations

import gzip
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from riboray.batching import window_starts
from riboray.corpus.config import ColumnNames
from riboray.corpus.ingestion import SerialRunner
from riboray.corpus.inputs import find_inputs
from riboray.corpus.screening import Rules
from riboray.corpus.sequences import read_sequences
from riboray.embedding.planning import Plan, PlanRules, make_plan
from riboray.embedding.reading import admit, list_source, read_parts
from riboray.errors import ConfigError, FastaError

RULES = Rules(min_length=1, max_length=1 << 62, on_long="reject")


def rules(**options):
    return PlanRules(RULES, ColumnNames(), width=40, **options)


def sources_of(paths, part_bytes=64):
    files = find_inputs([str(path) for path in paths])
    return [list_source(k, f, part_bytes, ColumnNames()) for k, f in enumerate(files)]


class Shuffled:
    """Calls functions in any order, as processes would."""

    workers = 1

    def map(self, function, items):
        calls = list(items)
        random.Random(3).shuffle(calls)
        for call in calls:
            yield function(*call)


def rows_of(sources, plan, given_rules):
    """Ids, sequences and rejects as a run would have them."""
    ids, texts, left = [], [], []
    for part in plan.parts:
        source = sources[part.source]
        unit = next(u for u in source.units() if not u or part.part in u)
        ((_, block),) = read_parts(source, unit, given_rules.columns, [part.part])
        found = admit(block, given_rules.rules)
        left += [(part.source, part.before + x.record, x.id, x.reason) for x in found.left]
        names = dict(part.renamed)
        for row in range(len(found)):
            name = names.get(row, found.block.ids.text(row))
            record = part.before + int(found.block.records[row])
            if name is None:
                left.append((part.source, record, found.block.ids.text(row), "twice"))
            else:
                ids.append(name)
                texts.append(found.block.sequences.text(row))
    return ids, texts, sorted(left)


RECORD = st.tuples(
    st.sampled_from(["a", "b", "c", "a.2", "long-name", "ü", ""]),
    st.sampled_from(["ACGU", "acgt", "GGNNCC", "", "ACXQ", "NNN", "ACGU((.))"[:8], "AC" * 50]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    records=st.lists(RECORD, min_size=1, max_size=25),
    part_bytes=st.integers(64, 300),
    kind=st.sampled_from(["fa", "fa.gz"]),
    policy=st.sampled_from(["suffix", "reject"]),
)
def test_parts_are_what_the_plain_reader_reads(tmp_path, records, part_bytes, kind, policy):
    text = "".join(f">{name} words\n{sequence}\n" for name, sequence in records)
    path = tmp_path / f"x.{kind}"
    path.write_bytes(gzip.compress(text.encode()) if kind == "fa.gz" else text.encode())
    try:
        expected = read_sequences([str(path)], duplicate_ids=policy, on_invalid="reject")
    except ConfigError:
        with pytest.raises(ConfigError, match="no sequence to work on"):
            make_plan(sources_of([path]), rules(on_invalid="reject"), SerialRunner())
        return
    asked = rules(duplicate_ids=policy, on_invalid="reject")
    sources = sources_of([path], part_bytes)
    plan = make_plan(sources, asked, Shuffled())
    ids, texts, left = rows_of(sources, plan, asked)
    assert texts == expected.sequences
    if policy == "reject":
        assert ids == expected.ids
    else:  # a made name may avoid one that only comes later
        assert len(set(ids)) == len(ids)
        assert [i.split(".")[0] for i in ids] == [i.split(".")[0] for i in expected.ids]
    assert [(r, name) for _, r, name, _ in left] == [(r.record, r.id) for r in expected.rejects]
    assert plan.total("read") == len(records)
    assert plan.total("rows") == len(ids) + sum(n is None for p in plan.parts for _, n in p.renamed)
    if policy == "suffix":
        assert plan.total("nucleotides") == sum(map(len, texts))
        assert plan.total("windows") == sum(len(window_starts(len(t), 40)) for t in texts)


def test_a_plan_is_read_back(tmp_path):
    (tmp_path / "x.fa").write_text(">a\nACGU\n>a\nACGG\n>b\nA\n")
    plan = make_plan(sources_of([tmp_path / "x.fa"]), rules(duplicate_ids="suffix"), Shuffled())
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan
    (tmp_path / "plan.json").write_text("{}")
    assert Plan.read(tmp_path / "plan.json") is None


def test_a_made_name_is_nobodys(tmp_path):
    (tmp_path / "x.fa").write_text(">a\nAC\n>a\nGG\n>a.2\nUU\n>a\nCC\n")
    sources, asked = sources_of([tmp_path / "x.fa"]), rules(duplicate_ids="suffix")
    ids, texts, _ = rows_of(sources, make_plan(sources, asked, SerialRunner()), asked)
    assert dict(zip(texts, ids, strict=True)) == {"AC": "a", "GG": "a.3", "UU": "a.2", "CC": "a.4"}


def test_errors_name_file_and_record(tmp_path):
    fine = "".join(f">n{k}\nACGU\n" for k in range(40))
    (tmp_path / "x.fa").write_text(fine + ">odd\nACGZ\n" + ">n3\nAC\n")
    sources = sources_of([tmp_path / "x.fa"])
    with pytest.raises(FastaError, match=r"record 41: character 'Z' at position 4"):
        make_plan(sources, rules(), Shuffled())
    with pytest.raises(FastaError, match=r"record 42: another record is called 'n3' too"):
        make_plan(sources, rules(on_invalid="reject"), Shuffled())
    (tmp_path / "x.fa").write_text(fine + ">nul\nAC\0U\n")
    with pytest.raises(FastaError, match=r"record 41: NUL byte"):
        make_plan(sources_of([tmp_path / "x.fa"]), rules(), Shuffled())


def test_a_long_sequence_is_no_mistake_where_it_is_to_be_left_out(tmp_path):
    (tmp_path / "x.fa").write_text(f">long\n{'AC' * 50}\n>short\nACGU\n")
    strict = Rules(min_length=1, max_length=40, on_long="reject")
    asked = PlanRules(strict, ColumnNames(), width=40)
    sources = sources_of([tmp_path / "x.fa"])
    plan = make_plan(sources, asked, SerialRunner())
    ids, _, left = rows_of(sources, plan, asked)
    assert ids == ["short"]
    assert left == [(0, 1, "long", "100 nt, longer than 40")]


def test_parquet_is_read_by_row_groups_and_carries_annotations(tmp_path):
    names = [f"r{k}" for k in range(100)]
    table = pa.table(
        {
            "urs": names,
            "sequence": ["ACGU" * (1 + k % 20) for k in range(100)],
            "type": ["tRNA" if k % 3 else None for k in range(100)],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=30)
    (tmp_path / "y.fa").write_text(">y\nACGU\n")
    asked = rules()
    sources = sources_of([tmp_path / "x.parquet", tmp_path / "y.fa"], 1000)
    assert len(sources[0].units()) == 4
    plan = make_plan(sources, asked, Shuffled())
    assert len(plan.parts) > 5
    assert plan.annotations == ["rna_type"]
    ids, texts, _ = rows_of(sources, plan, asked)
    assert ids == [*names, "y"]
    assert texts == [*table["sequence"].to_pylist(), "ACGU"]
    assert [part.before for part in plan.parts if part.source == 0][-1] > 90
