"""Base and sequence embeddings of RNAs of any length, and the Arrow files that hold them."""
