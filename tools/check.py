"""Lint, format, docstrings, types, layers, documentation: what is checked without running code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHECKS = (
    ["ruff", "check"],
    ["ruff", "format", "--check"],
    ["mypy"],
    ["importlinter"],  # the layers, in .importlinter
    # Pages that lack, links that lead nowhere, headings that are linked to and are not there.
    ["mkdocs", "build", "--strict", "--quiet"],
)


def main() -> int:
    """Run every check, even after one fails; return 1 if any did."""
    failed = []
    for module, *arguments in CHECKS:
        print(f"$ {module} {' '.join(arguments)}", flush=True)
        command = [sys.executable, "-m", module, *arguments]
        if module == "importlinter":
            command = [str(Path(sys.executable).with_name("lint-imports"))]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
        if done.returncode:
            failed.append(module)
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
