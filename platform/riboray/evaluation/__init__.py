"""Measuring models and aligners: alignments, masked nucleotides, families."""
