"""Where a run tells how far it is; see `progress.pipeline`."""
