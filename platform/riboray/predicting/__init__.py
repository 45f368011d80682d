"""Predictions of models with a head: of sequences, nucleotides and pairs of them."""
