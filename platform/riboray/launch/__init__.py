"""Clusters: what a cluster's file lacks, and jobs that run there."""
