"""Fine-tuning: a model learns from labelled RNAs to predict of sequences, nucleotides or pairs."""
