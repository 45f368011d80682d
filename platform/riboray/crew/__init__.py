"""Processes that share work on Ray, on one machine or on a cluster that grows and shrinks."""
