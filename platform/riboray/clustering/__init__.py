"""Families of RNAs from similarities: graphs, communities, representatives, alignments."""
