"""Pre-training RNABERT: masking, streams of batches, losses, the loop, and its driver on Ray."""
