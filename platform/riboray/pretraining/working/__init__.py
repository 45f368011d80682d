"""What a worker of Ray Train runs; see `working.pipeline`."""
