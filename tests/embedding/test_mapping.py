"""Maps of embeddings: layout, colours, and the page in a real browser."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pytest

from riboray.cli import main
from riboray.embedding.config import EmbedConfig
from riboray.embedding.mapping import MapConfig, colour_by, make_map, palette_of, project
from riboray.embedding.mapping_page import map_page
from riboray.errors import ConfigError, CorpusError
from tests.conftest import random_sequences
from tests.embedding.test_shards import embed_here, write


@pytest.fixture(scope="module")
def embedded(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    texts = random_sequences(np.random.default_rng(4), 80, 10, 60)
    embed_here(folder, checkpoint, write(folder, texts), shard_bytes=2000)
    lines = [f"s{k}\tkind {k % 3} <b>&amp;\t{k / 7}" for k in range(0, 80, 2)]
    (folder / "more.tsv").write_text("name\tkind\tweight\n" + "\n".join(lines) + "\n")
    return folder


def test_principal_components_keep_distances_in_the_plane(rng):
    flat = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 20))
    points = project(flat.astype(np.float32), "pca")
    ours = np.linalg.norm(points[:, None] - points[None], axis=2)
    theirs = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_umap_brings_neighbours_together_and_is_the_same_again(rng):
    pytest.importorskip("umap")
    groups = np.repeat(rng.normal(scale=20, size=(3, 10)), 30, axis=0)
    vectors = (groups + rng.normal(size=(90, 10))).astype(np.float32)
    points = project(vectors, "umap", 10, seed=1)
    assert np.array_equal(points, project(vectors, "umap", 10, seed=1))
    centres = points.reshape(3, 30, 2).mean(axis=1)
    spread = np.abs(points.reshape(3, 30, 2) - centres[:, None]).max()
    nearest = min(np.linalg.norm(centres[a] - centres[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert nearest > spread


def test_names_get_hues_the_commonest_first():
    values = ["b"] * 3 + ["a"] * 5 + [None] * 2 + [f"rare{k}" for k in range(30)]
    found = colour_by(("kind", pa.array(values)))
    assert found.names[:2] == ["a (5)", "b (3)"]
    assert found.names[-1] == "others (15)"
    assert len(found.names) == 20 == len(palette_of(found))
    assert len(set(palette_of(found))) == 20
    assert found.groups[3] == 0
    assert found.texts[8] == "unknown"
    alone = colour_by(("kind", pa.array([None, None], pa.string())))
    assert alone.names == ["unknown (2)"]
    assert palette_of(alone) == ["#b4b4ba"]


def test_numbers_get_a_scale():
    found = colour_by(("length", pa.array([*range(1, 100), None], pa.int32())))
    assert found.scale is not None
    assert found.groups[0] == 0
    assert found.groups[98] == 18
    assert found.names[-1] == "unknown (1)"
    assert (np.diff(found.groups[:99].astype(int)) >= 0).all()


@pytest.mark.parametrize("options", [{}, {"color_by": "kind"}, {"color_by": "weight"}])
def test_a_picture_and_a_page(embedded, tmp_path, options):
    metadata = str(embedded / "more.tsv") if options else None
    made = make_map(
        MapConfig(
            embeddings=[str(embedded / "out")],
            output=str(tmp_path / "m.html"),
            method="pca",
            metadata=metadata,
            **options,
        )
    )
    assert made["points"] == 80
    assert made["color_by"] == options.get("color_by", "length")
    assert (tmp_path / "m.png").read_bytes()[:4] == b"\x89PNG"
    page = (tmp_path / "m.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert data["ids"] == [f"s{k}" for k in range(80)]
    assert page.count("<script") == 2
    assert "<b>&amp;" not in page, "what comes from data is escaped"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color_by": "nothing"}, "no column 'nothing' to colour by; there are id, sequence"),
        ({"layer": 1}, r"layers \[2\], not 1"),
        ({"output": "x.txt"}, "must end in .html"),
        ({"max_points": 1}, "max_points"),
        ({"neighbors": 1}, "neighbors"),
    ],
)
def test_what_cannot_be_drawn(embedded, options, message):
    with pytest.raises(ConfigError, match=message):
        make_map(MapConfig(embeddings=[str(embedded / "out")], method="pca", **options))


def test_no_embeddings_and_no_table(embedded, tmp_path, capsys):
    assert main(["map", str(tmp_path), "--method", "pca"]) == 2
    assert "no complete embeddings" in capsys.readouterr().err
    (tmp_path / "one.tsv").write_text("id\na\n")
    with pytest.raises(CorpusError, match="one column only"):
        make_map(
            MapConfig(
                embeddings=[str(embedded / "out")], method="pca", metadata=str(tmp_path / "one.tsv")
            )
        )
    assert EmbedConfig(input=["x"], checkpoint="y").layers == [-1]


def test_ids_of_a_table_are_text(embedded, tmp_path):
    """001 is not 1, NA is a name; and a dollar sign in a name begins no formula."""
    table = tmp_path / "t.tsv"
    table.write_text("id\tkind\ns1\ta $\\foo$ b\n001\tx\nNA\ty\n")
    options = {"embeddings": [str(embedded / "out")], "method": "pca", "color_by": "kind"}
    made = make_map(MapConfig(**options, metadata=str(table), output=str(tmp_path / "m.html")))
    assert made["points"] == 80
    table.write_text("id\tkind\n001\tx\n1.10\ty\n")
    with pytest.raises(CorpusError, match="names none of the sequences"):
        make_map(MapConfig(**options, metadata=str(table)))
    table.write_text("id\tkind\tkind\ns1\tx\ty\n")
    with pytest.raises(CorpusError, match="two columns of one name"):
        make_map(MapConfig(**options, metadata=str(table)))
    numbers = colour_by(("n", pa.array([2**60 + 1, 5])))
    assert numbers.groups[1] == 0


def test_a_hundred_thousand_points_in_a_browser(tmp_path, rng, chromium):
    """The page draws them all, says nothing in the console, and a redraw is a matter of frames."""
    count = 100_000
    points = rng.normal(size=(count, 2)).astype(np.float32)
    kinds = rng.integers(0, 30, count)
    colours = colour_by(("kind", pa.array([f"kind {k}" for k in kinds])))
    file = tmp_path / "m.html"
    file.write_text(map_page("many", "words.", points, [f"id{k}" for k in range(count)], colours))
    assert file.stat().st_size < 6e6
    page = chromium.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri())
    canvas = page.locator("canvas[data-milliseconds]")
    canvas.wait_for(timeout=120_000)

    def picture() -> bytes:
        return canvas.screenshot()

    whole = picture()
    canvas.focus()
    # By its attribute: the page's policy forbids what evaluates strings, as waiting functions do.
    painted = int(canvas.get_attribute("data-paints") or 0)
    page.keyboard.press("+")
    page.locator(f"canvas[data-paints]:not([data-paints='{painted}'])").wait_for()
    assert picture() != whole
    milliseconds = float(canvas.get_attribute("data-milliseconds") or "nan")
    assert milliseconds < 1000, "without a GPU, on a busy machine; on a desktop some tens"
    assert not said
    page.close()
