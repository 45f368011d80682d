"""The deployment graph: `serve run serve.app:app [checkpoint=DIRECTORY]`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from riboray.serving.pipeline import build as app

__all__ = ["app"]
