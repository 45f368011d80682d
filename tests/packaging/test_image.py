"""The Dockerfile: linted, and its steps done in a clean environment as it says.

No container is started. A virtual environment takes the image's place, folders of a temporary
directory the image's; what is copied, built, installed and run is read from the file itself.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.integration.helpers import ROOT, environment, riboray_at

TEXT = (ROOT / "Dockerfile").read_text("utf-8")
#: A wheel holds two models of 3.4 MB.
LARGEST_WHEEL = 10_000_000


def instructions():
    """Every instruction of the file, with its words."""
    joined = re.sub(r"\\\n", " ", TEXT)
    lines = (line.strip() for line in joined.splitlines())
    return [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]


def test_the_file_is_linted():
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


class Image:
    """A virtual environment and folders in which the file's steps are done."""

    def __init__(self, folder: Path) -> None:
        self.home, self.environment = folder / "home", folder / "environment"
        (self.home / "ray").mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", self.environment], check=True)
        self.bin = self.environment / "bin"
        self.variables = {"RAY": "-"}
        self.folder = self.home / "ray"

    def path(self, text: str) -> Path:
        """Where a path of the image lies."""
        return (self.folder / text.replace("/home/", f"{self.home}/")).resolve()

    def run(self, command: str) -> str:
        """Run a shell command as the image would."""
        env = {k: v for k, v in environment().items() if k != "PYTHONPATH"}
        env["PATH"] = f"{self.bin}:/usr/bin:/bin"
        env |= {k: v for k, v in self.variables.items() if k != "RAY"}
        command = command.replace("/home/", f"{self.home}/")
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.folder, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    def do(self, name: str, words: str) -> None:
        """Do one instruction."""
        if name == "FROM":
            assert words.startswith("rayproject/ray:${RAY}")
        elif name in ("ARG", "ENV"):
            key, _, value = words.partition("=")
            self.variables[key] = value
        elif name == "WORKDIR":
            self.folder = self.path(words)
            self.folder.mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            *options, target = words.split()
            sources = [word for word in options if not word.startswith("--")]
            if "--from=wheel" in options:
                return  # one file system here
            for source in sources:
                self.copy(ROOT / source, self.path(target) / (source if target == "./" else ""))
        else:
            assert name == "RUN", name
            self.run(words)

    def copy(self, source: Path, target: Path) -> None:
        """Copy what the build's context has of a file or folder."""
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    image = Image(tmp_path_factory.mktemp("image"))
    for name, words in instructions():
        image.do(name, words)
    return image


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_holds_what_it_must(image):
    (wheel,) = (image.home / "ray" / "wheels").iterdir()
    assert wheel.stat().st_size < LARGEST_WHEEL
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"riboray/py.typed", "riboray/weights/rnabert/model.safetensors"} <= names
    assert "riboray/corpus/sample/sequences.fa.gz" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if not name.startswith("riboray")]
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "platform/riboray"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    missing = {n.removeprefix("platform/") for n in tracked.split()} - names
    assert not {n for n in missing if (ROOT / "platform" / n).exists()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_source_distribution_makes_the_same_wheel(image, tmp_path):
    """What is published is enough to build from, and holds what packagers look for."""
    command = [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (source,) = tmp_path.glob("riboray-*.tar.gz")
    (wheel,) = tmp_path.glob("riboray-*.whl")
    assert source.stat().st_size < LARGEST_WHEEL
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in (
        "LICENSE",
        "README.md",
        "CITATION.cff",
        "Dockerfile",
        "mkdocs.yml",
        "jobs/embed.py",
    ):
        assert name in names, name
    assert {"tests/test_cli.py", "docs/index.md", "configs/laptop.yaml", "serve/app.py"} <= names
    (other,) = (image.home / "ray" / "wheels").iterdir()
    one, two = (zipfile.ZipFile(path) for path in (wheel, other))
    assert {i.filename: i.CRC for i in one.infolist() if "RECORD" not in i.filename} == {
        i.filename: i.CRC for i in two.infolist() if "RECORD" not in i.filename
    }


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_what_is_installed_works_anywhere(image, tmp_path):
    """The main job and the bundled weights, far from the source tree."""
    assert str(ROOT) not in image.run("python -c 'import riboray; print(riboray.__file__)'")
    missing = image.run("python -m pip check")
    assert "No broken requirements" in missing
    options = ["--run-name", "first", "--max-minutes", "0.2", "--evaluations", "1", "--quiet"]
    code, _, err = riboray_at(image.bin, "pretrain", *options, cwd=tmp_path)
    assert (code, err) == (0, "")
    (tmp_path / "rnas.fa").write_text(
        ">a\nGGUCUCUCUGGUUAGACCAGAUCUGAGCCU\n>b\nUAGCUUAUCAGACUGAUG\n"
    )
    for model in ("rnabert", "runs/first/checkpoint"):
        options = ["--checkpoint", model, "--output", model.split("/")[0] + "-out"]
        code, _, err = riboray_at(image.bin, "embed", "rnas.fa", *options, cwd=tmp_path)
        assert code == 0, err
        assert "2 read = 2 embedded" in err


def test_python_versions_are_the_same_everywhere():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    for version in ("3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {version}" in text
    assert "\nARG TORCH=torch==2.13.0\n" in TEXT
    assert "pip install -q torch==2.13.0" in (ROOT / "README.md").read_text("utf-8")
