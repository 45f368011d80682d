"""`riboray evaluate paper` from files to a page."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from riboray.cli import main
from riboray.errors import ConfigError, OutputError
from riboray.evaluation.paper import PAPER_KIND, EvaluatePaperConfig, evaluate_paper
from riboray.evaluation.provenance import sources_of
from riboray.manifest import read_manifest, sha256_file
from riboray.model import RnaBertForPreTraining, save_checkpoint
from riboray.options import parse_config
from riboray.verbs import VERBS
from tests.conftest import random_sequences, tiny_config
from tests.evaluation.test_evaluate_alignment import related, table
from tests.evaluation.test_seed_families import stockholm

HOSTILE = "<script>alert(1)</script>&"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Reference alignments, four families with structures, a model."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(5)
    table(folder / "k2.tsv", rng, 3, 4)
    families = []
    for number in range(4):
        (text,) = random_sequences(rng, 1, 40, 40)
        rows = [(f"s{number}.{k}", related(rng, text)[1]) for k in range(6)]
        families.append(
            (f"RF{number}{HOSTILE * (number == 3)}", rows, "<" * 9 + "_" * 22 + ">" * 9)
        )
    stockholm(folder / "seeds.sto.gz", *families)
    (folder / "held.txt").write_text("RF0\nRF1\n")
    torch.manual_seed(3)
    save_checkpoint(RnaBertForPreTraining(tiny_config(initializer_range=0.2)), folder / "model")
    return folder


def run(data, output, **options):
    given = {
        "bralibase": [str(data / "k2.tsv")],
        "rfam": [str(data / "seeds.sto.gz")],
        "checkpoint": [
            f"{HOSTILE}={data / 'model'}",
            f"o={data / 'model'},padding=original,open=2",
        ],
        "output": str(output),
        "bases": 60,
        "rounds": 100,
        **options,
    }
    config = EvaluatePaperConfig(**given)
    return config, evaluate_paper(config)


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "paper"
    return output, *run(data, output)


def test_files_and_figures(data, done):
    output, _, result = done
    assert result == {"output": str(output), "report": str(output / "report.html")}
    manifest = read_manifest(output, PAPER_KIND, verify=True)
    assert {entry.name for entry in manifest.files} == {
        *("bases.png", "families.fa", "paper.json", "report.html", "resolved_config.yaml")
    }
    found = json.loads((output / "paper.json").read_text())
    methods = [m["name"] for m in found["alignment"]["methods"]]
    assert methods == [HOSTILE, "o", "identity", "ribosum", "untrained"]
    gaps = {m["name"]: m.get("gaps") for m in found["alignment"]["methods"]}
    assert gaps["o"] == {"open": 2.0, "extend": 0.1}
    assert found["models"]["o"]["padding"] == "original"
    assert {row["model"] for row in found["clustering"]["results"]} == {None, HOSTILE, "o"}
    assert found["clustering"]["cluster_with"] == "spectral"
    names = [one["name"] for one in found["bases"]["seen"]]
    assert names[3:] == [
        *(HOSTILE, f"{HOSTILE}, centred", "o", "o, centred", "untrained", "untrained, centred")
    ]
    assert found["bases"]["bases"] >= 60
    paths = {s["role"]: (s["path"], s["sha256"]) for s in found["sources"]}
    k2 = data / "k2.tsv"
    assert paths["reference alignments"] == (str(k2), sha256_file(k2))
    assert not found["sample"]


def test_the_page_has_every_figure_and_nothing_runs_in_it(done):
    output, config, _ = done
    page = (output / "report.html").read_text()
    assert "<script" not in page, "names are escaped"
    assert HOSTILE in unescape(page)
    assert "default-src 'none'" in page
    assert "img-src data:" in page
    assert len(re.findall(r'<img alt="[^"]{40,}" src="data:image/png;base64,', page)) == 3
    assert not re.search(r'(src|href)="(?!data:|#|https://doi\.org/)', page)
    found = json.loads((output / "paper.json").read_text())
    for row in found["alignment"]["overview"]:
        assert f"{row['f1']:.3f}" in page
    for row in found["clustering"]["results"]:
        assert f"{row['mean_average_precision']:.3f}" in page
    for one in found["bases"]["seen"]:
        assert f"{one['context']:.3f}" in page
    for source in found["sources"]:
        assert source["sha256"] in page
    assert "bundled sample" not in page
    blocks = [unescape(text) for text in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)]
    words = shlex.split(blocks[0])
    assert words[:3] == ["riboray", "evaluate", "paper"]
    assert parse_config("evaluate paper", EvaluatePaperConfig, words[3:]) == config


def test_commands_of_the_parts_give_the_same_figures(done, tmp_path, monkeypatch):
    output, _, _ = done
    found = json.loads((output / "paper.json").read_text())
    monkeypatch.chdir(tmp_path)
    for name, kind in (("Alignment", "alignment"), ("Families", "clustering")):
        words = shlex.split(found["commands"][name])
        assert words[:3] == ["riboray", "evaluate", kind]
        again = tmp_path / kind
        config = parse_config(
            f"evaluate {kind}", VERBS[f"evaluate {kind}"].load_config(), words[3:]
        )
        assert config.output == str(output / kind)
        assert main([*words[1:], "--output", str(again)]) == 0
        ours = json.loads((output / kind / f"{kind}.json").read_text())
        theirs = json.loads((again / f"{kind}.json").read_text())
        key = "mean_average_precision" if kind == "clustering" else "f1"
        rows = "results" if kind == "clustering" else "overview"
        assert [r[key] for r in ours[rows]] == [r[key] for r in theirs[rows]]


def test_what_is_done_is_not_done_again_and_others_are_refused(data, done, capsys, monkeypatch):
    output, _, result = done
    with monkeypatch.context() as patched:
        patched.setattr("riboray.evaluation.paper._align", None)
        assert run(data, output)[1] == result
    assert "is complete already" in capsys.readouterr().err
    with pytest.raises(OutputError, match="other inputs or options"):
        run(data, output, members=3)


def test_it_goes_on_where_it_stopped(data, done, tmp_path, monkeypatch, capsys):
    output, _, _ = done

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("riboray.evaluation.paper._map", stop)
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path / "paper")
    assert not (tmp_path / "paper" / "report.html").exists()
    capsys.readouterr()
    run(data, tmp_path / "paper")
    shown = capsys.readouterr().err
    assert shown.count("is complete already") == 2, "alignment and clustering"
    ours, before = (
        json.loads((o / "paper.json").read_text()) for o in (tmp_path / "paper", output)
    )
    assert ours["bases"] == before["bases"]


def test_a_part_without_its_data_is_left_out(data, tmp_path):
    _, result = run(data, tmp_path / "a", rfam=[], checkpoint=[])
    page = Path(result["report"]).read_text()
    assert "Left out: give --rfam" in page
    assert "F1 by sequence identity" in page
    families = [str(data / "held.txt")]
    _, result = run(data, tmp_path / "b", bralibase=[], checkpoint=[], families=families)
    page = Path(result["report"]).read_text()
    assert "Left out: give --bralibase" in page
    assert "What nearest bases agree in" in page
    labels = {line.split()[1] for line in (tmp_path / "b/families.fa").open() if line[0] == ">"}
    assert labels == {"RF0", "RF1"}
    resolved = yaml.safe_load((tmp_path / "b" / "resolved_config.yaml").read_text())
    assert resolved["families"] == families


def test_without_data_the_sample_says_that_it_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--bases", "60", "--rounds", "100", "--max-pairs", "12", "--members", "2"]
    assert main(["evaluate", "paper", *options, "--baselines", "identity"]) == 0
    page = (tmp_path / "paper" / "report.html").read_text()
    assert "Measured on the bundled sample" in page
    assert "No model was measured but an untrained one" in page


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"members": 1}, "members must be at least 2"),
        ({"families": ["x"], "rfam": []}, "--families says which families of --rfam"),
        ({"measures": ["magic"]}, "unknown measure 'magic'"),
        ({"baselines": ["none", "identity"]}, "baselines are"),
        ({"checkpoint": ["a=x,padding=odd"]}, "padding is masked or original"),
    ],
)
def test_options_that_mean_nothing(options, words):
    with pytest.raises(ConfigError, match=words):
        EvaluatePaperConfig(**options)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("k2.tsv", "", "k2.tsv.*empty|k2.tsv.*holds|k2.tsv.*no column"),
        ("seeds.sto.gz", "# STOCKHOLM 1.0\n", "seeds.sto.gz.*truncated"),
        ("seeds.sto.gz", ">x\nACGU\n", "seeds.sto.gz.*not Stockholm"),
        ("held.txt", "RF77\n", "no family called RF77"),
        ("model/config.json", "{", "config.json|model"),
    ],
)
def test_bad_input_is_one_clear_error_and_leaves_nothing(data, tmp_path, capsys, name, text, words):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    (folder / name).write_text(text)
    arguments = ["evaluate", "paper", "--bralibase", str(folder / "k2.tsv")]
    arguments += ["--rfam", str(folder / "seeds.sto.gz"), "--families", str(folder / "held.txt")]
    arguments += ["--checkpoint", str(folder / "model"), "--output", str(tmp_path / "paper")]
    assert main([*arguments, "--bases", "60", "--rounds", "100"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("riboray evaluate paper: ")
    assert re.search(words, last)
    assert not (tmp_path / "paper").exists()


def test_sources(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("x")
    (tmp_path / "folder" / "b").write_text("yy")
    first, second = sources_of("r", [str(tmp_path / "folder"), "https://example.org/k2.tsv"])
    assert (first.files, first.bytes, len(first.sha256)) == (2, 3, 16)
    assert (second.path, second.sha256) == ("https://example.org/k2.tsv", "")
    (tmp_path / "folder" / "b").write_text("yz")
    assert sources_of("r", [str(tmp_path / "folder")])[0].sha256 != first.sha256
