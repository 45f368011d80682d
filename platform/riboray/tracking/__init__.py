"""Where a run's records go beside its ``metrics.jsonl``: TensorBoard, MLflow, W&B, Prometheus."""
