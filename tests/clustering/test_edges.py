from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from riboray.alignment.hits import hits_table, tsv_header, write_arrow, write_tsv
from riboray.alignment.sides import TileHits
from riboray.alignment.statistics import NullModel
from riboray.alignment.store import ALIGNMENTS_KIND
from riboray.clustering.config import ClusterConfig
from riboray.clustering.edges import collect_edges, edge_weights, open_hits
from riboray.clustering.graph import EdgeCollector
from riboray.clustering.sequences import Sequences
from riboray.errors import ConfigError, CorpusError
from riboray.manifest import FileEntry, Manifest, write_manifest

NULL = NullModel((0.0, 0.3, 0.0, 0.0, 0.0), (0.0, 0.5, 0.0, 0.0), 0.0, 0.0, 1.0, 100, 10, 200)
IDS = ["a", "b", "c", "d", '"e"']
LENGTHS = np.array([100, 80, 60, 40, 20], np.int32)
PAIRS = [(0, 1, 70.0), (0, 2, 20.0), (1, 2, 45.0), (3, 4, 19.0)]


def sequences():
    texts = pa.array(["A" * n for n in LENGTHS.tolist()], pa.large_string())
    return Sequences(pa.array(IDS), texts, LENGTHS, "rnas.fa")


def table(null=NULL, pairs=PAIRS):
    query, target, score = (np.array(column) for column in zip(*pairs, strict=True))
    hits = TileHits(query, target, score.astype(np.float32), np.zeros(len(score)), None, None, 1)
    return hits_table(hits, IDS, LENGTHS, null, 10)


def directory(tmp_path, content, counts=None):
    """What `align --all-pairs` leaves, in two files."""
    folder = tmp_path / "hits"
    (folder / "pairs").mkdir(parents=True)
    entries = []
    for number, part in enumerate((content.slice(0, 2), content.slice(2))):
        path = folder / "pairs" / f"tile-{number}.arrow"
        write_arrow(part, path, {})
        entry = FileEntry.of(path)
        entries.append(FileEntry(f"pairs/{path.name}", None, entry.bytes, entry.sha256))
    counts = counts or {"sequences_aligned": 5, "pairs_compared": 10}
    manifest = Manifest(
        kind=ALIGNMENTS_KIND, fingerprint="abc", files=tuple(entries), counts=counts
    )
    write_manifest(folder, manifest)
    return folder


def edges(path, **options):
    config = ClusterConfig(input=["x"], **{"weight": "calibrated", **options})
    collector = EdgeCollector(5)
    read = collect_edges(open_hits(str(path)), sequences(), config, collector)
    graph = collector.graph()
    pairs = zip(graph.first.tolist(), graph.second.tolist(), graph.weight.tolist(), strict=True)
    return {(a, b): w for a, b, w in pairs}, read


def z_score(score, shorter):
    return (score - 0.3 * shorter) / np.sqrt(shorter)


def test_weights_by_hand():
    shorter = np.array([100, 25], np.int32)
    values = np.array([20.0, 5.0])
    assert edge_weights("calibrated", values, shorter).tolist() == [2.0, 1.0]
    assert edge_weights("normalised_score", values, shorter) == pytest.approx([0.2, 0.2])
    assert edge_weights("z_score", values, shorter).tolist() == values.tolist()


def test_edges_of_a_directory(tmp_path):
    found, read = edges(directory(tmp_path, table()))
    assert read == 4
    assert found.keys() == {(0, 1), (1, 2)}
    assert found[0, 1] == pytest.approx(z_score(70, 80) / np.sqrt(80), rel=1e-5)
    everything, _ = edges(tmp_path / "hits", max_evalue=None, neighbors=9)
    # Below chance is no similarity.
    assert everything.keys() == {(0, 1), (0, 2), (1, 2), (3, 4)}
    few, _ = edges(tmp_path / "hits", max_evalue=None, min_normalised_score=0.8, weight="score")
    assert few == {(0, 1): 70.0, (3, 4): 19.0}


def test_evalues_are_about_one_sequence(tmp_path):
    """All pairs: E-values are about ten pairs, and a sequence has four of them."""
    content = table()
    of_pairs = content["evalue"].to_pylist()[3]
    path = directory(tmp_path, content)
    assert (3, 4) in edges(path, max_evalue=of_pairs * 4 / 10)[0]
    assert (3, 4) not in edges(path, max_evalue=of_pairs * 4 / 10 * 0.99)[0]
    searched = directory(tmp_path / "search", content, {"targets": 5, "pairs_compared": 10})
    assert (3, 4) in edges(searched, max_evalue=of_pairs)[0]
    assert (3, 4) not in edges(searched, max_evalue=of_pairs * 0.99)[0]


def test_edges_of_a_table(tmp_path):
    path = tmp_path / "pairs.tsv"
    write_tsv(table(), path)
    path.write_text(tsv_header(scores_only=True) + path.read_text())
    options = {"weight": "normalised_score", "min_normalised_score": 0.5}
    found, _ = edges(path, **options, max_evalue=None)
    assert found.keys() == {(0, 1), (1, 2), (3, 4)}
    assert found[3, 4] == pytest.approx(0.95)
    with pytest.raises(CorpusError, match=r"no column 'z_score'.*give the directory"):
        edges(path)


def test_names_are_text_whatever_they_look_like(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("query\ttarget\tscore\n007\tNA\t1.0\n7\t1e3\t2.0\n")
    lengths = np.full(4, 10, np.int32)
    named = Sequences(pa.array(["7", "1e3", "NA", "007"]), pa.array(["A" * 10] * 4), lengths, "x")
    config = ClusterConfig(input=["x"], weight="score", max_evalue=None, neighbors=3)
    collector = EdgeCollector(4)
    collect_edges(open_hits(str(path)), named, config, collector)
    graph = collector.graph()
    assert (graph.first.tolist(), graph.second.tolist()) == ([0, 2], [1, 3])


def test_pairs_of_other_sequences(tmp_path):
    path = directory(tmp_path, table())
    others = Sequences(pa.array(["a", "b"]), pa.array(["A", "A"]), LENGTHS[:2], "other.fa")
    config = ClusterConfig(input=["x"])
    with pytest.raises(CorpusError) as caught:
        collect_edges(open_hits(str(path)), others, config, EdgeCollector(2))
    assert "names 'c', which is none of the 2 sequences of other.fa" in str(caught.value)
    assert "tile-0.arrow" in str(caught.value)


def test_pairs_without_statistics(tmp_path):
    path = directory(tmp_path, table(null=None))
    with pytest.raises(CorpusError, match="compared without statistics"):
        edges(path)
    options = {"weight": "normalised_score", "min_normalised_score": 0.8, "max_evalue": None}
    assert edges(path, **options)[0].keys() == {(0, 1), (3, 4)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'query'"),
        ("query\ttarget\tevalue\n", "has no column 'z_score'"),
        ("query\ttarget\tz_score\tevalue\na\tb\tmany\t1\n", "not a table of pairs"),
        ("query\ttarget\tz_score\tevalue\na\tb\n", "not a table of pairs"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    path = tmp_path / "pairs.tsv"
    path.write_text(text)
    with pytest.raises(CorpusError, match=message):
        edges(path)


def test_bad_directories(tmp_path):
    with pytest.raises(CorpusError, match="no such directory or file"):
        open_hits(str(tmp_path / "nowhere"))
    with pytest.raises(CorpusError, match="no complete comparison here"):
        open_hits(str(tmp_path))
    path = directory(tmp_path, table())
    (path / "pairs" / "tile-1.arrow").write_bytes(b"nothing")
    with pytest.raises(CorpusError, match="of another size"):
        open_hits(str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "spectral"}, "needs --clusters"),
        ({"clusters": 3}, "--clusters is for --method spectral"),
        ({"method": "greedy", "resolution": 1.0}, "--resolution is for --method leiden"),
        ({"max_evalue": None}, "everything would be linked"),
        ({"max_evalue": 0.0}, "max_evalue must be positive"),
        ({"resolution": float("nan")}, "resolution must be positive"),
        ({"mutual": True}, "--mutual needs --neighbors"),
        ({"neighbors": 0}, "neighbors must be at least 1"),
        ({"mode": "glocal"}, "unknown alignment mode"),
        ({"arithmetic": "int16", "weight": "identity"}, "needs alignments"),
        ({"input": []}, "nothing to cluster"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        ClusterConfig(**{"input": ["x.fa"], **options})
