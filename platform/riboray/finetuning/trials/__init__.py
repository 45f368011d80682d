"""Many trainings at a time, on Ray Tune."""
