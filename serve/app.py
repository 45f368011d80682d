"""The deployment graph: `serve run serve.app:app checkpoint=DIRECTORY`."""

from riboray.serving.pipeline import build as app

__all__ = ["app"]
