#!/usr/bin/env python3
"""Fine-tune a model: the same as `riboray finetune`, for `ray job submit`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from riboray.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("finetune"))
