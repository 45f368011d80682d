"""Rules of the house that a reader relies on."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import riboray
import riboray.alignment
import riboray.model
from riboray.verbs import VERBS


def python_files(root, *folders):
    for folder in folders:
        yield from sorted((root / folder).rglob("*.py"))


def test_platform_is_a_source_root_and_no_package(root):
    assert not (root / "platform" / "__init__.py").exists()
    names = {p.name for p in (root / "platform").iterdir()} - {"__pycache__"}
    assert names == {"riboray"}


def test_standard_library_platform_is_not_shadowed(root):
    code = "import platform, uuid; assert platform.python_version()"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_ray_is_imported_in_pipeline_files_only(root):
    for path in python_files(root, "platform"):
        if path.name == "pipeline.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            assert not [m for m in modules if m.split(".")[0] == "ray"], path


def test_files_stay_short(root):
    for path in python_files(root, "platform", "jobs", "serve", "tests", "benchmarks", "tools"):
        assert len(path.read_text().splitlines()) <= 400, path
    for path in python_files(root, "jobs", "serve"):
        assert len(path.read_text().splitlines()) <= 60, path


def test_functions_fit_a_screen(root):
    for path in python_files(root, "platform"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1] if ast.get_docstring(node) and node.body[1:] else node.body[0]
                length = (node.end_lineno or 0) - first.lineno + 1
                assert length <= 60, f"{path}: {node.name} has {length} lines"


def test_every_verb_has_its_job_and_no_job_shadows_a_standard_module(root):
    jobs = {p.stem for p in (root / "jobs").glob("*.py")}
    # These are for the machine from which a cluster is used.
    assert jobs == {name.split()[0] for name in VERBS} - {"submit", "check-cluster", "completion"}
    assert not jobs & set(sys.stdlib_module_names)
    for path in (root / "jobs").glob("*.py"):
        assert path.read_text().startswith("#!/usr/bin/env python3")
        assert path.stat().st_mode & 0o111, f"{path} is not executable"


@pytest.mark.parametrize("module", ["riboray", "riboray.cli"])
def test_importing_is_light(module):
    code = (
        f"import sys, {module}; "
        "heavy = {'torch', 'ray', 'numba', 'pyarrow'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_export_is_called_as_a_module_is():
    """Once imported, the module would stand in its place."""
    for module in (riboray, riboray.model, riboray.alignment):
        folder = Path(module.__file__).parent
        modules = {p.stem for p in folder.iterdir()}
        assert not modules & set(module.__all__), module


def test_workers_that_read_data_load_neither_torch_nor_numba():
    code = (
        "import sys, riboray.pretraining.streams; "
        "heavy = {'torch', 'ray', 'numba'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version_is_in_the_changelog(root):
    assert f"## [{riboray.__version__}]" in (root / "CHANGELOG.md").read_text()
