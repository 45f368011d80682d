"""Reading ahead with Ray Data; see `feeding.pipeline`."""
