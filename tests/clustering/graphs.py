"""Small graphs, and algorithms written plainly, to compare with."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from riboray.clustering.graph import EdgeCollector, Graph


def graph_of(count, edges):
    """A graph from ``(one, other, weight)``."""
    collector = EdgeCollector(count)
    one, other, weight = (np.array(column) for column in zip(*edges, strict=True))
    collector.add(one, other, weight.astype(np.float32))
    return collector.graph()


def empty_graph(count):
    none = np.empty(0, np.int32)
    return Graph(count, none, none, np.empty(0, np.float32))


@st.composite
def edge_lists(draw, most=14, weights=(0.25, 0.5, 1.0)):
    """Nodes, and edges in any order, some twice, some to themselves."""
    count = draw(st.integers(1, most))
    nodes = st.integers(0, count - 1)
    edges = draw(st.lists(st.tuples(nodes, nodes, st.sampled_from(weights)), max_size=40))
    return count, edges


def neighbours(count, edges):
    """Weights by node and neighbour; of an edge that comes twice, the higher one."""
    found = [{} for _ in range(count)]
    for a, b, weight in edges:
        if a != b:
            found[a][b] = found[b][a] = max(weight, found[a].get(b, 0))
    return found


def set_cover_naively(count, edges):
    """Greedy set cover, every count taken anew."""
    near = neighbours(count, edges)
    owner = [-1] * count
    while -1 in owner:
        free = [k for k in range(count) if owner[k] < 0]
        centre = max(free, key=lambda k: (sum(owner[n] < 0 for n in near[k]), -k))
        for k in [centre, *(n for n in near[centre] if owner[n] < 0)]:
            owner[k] = centre
    return owner


def components_naively(count, edges):
    near = neighbours(count, edges)
    label = [-1] * count
    for start in range(count):
        waiting = [start] if label[start] < 0 else []
        while waiting:
            node = waiting.pop()
            if label[node] < 0:
                label[node] = start
                waiting += near[node]
    return label


def same_partition(one, other):
    pairs = set(zip(list(one), list(other), strict=True))
    return len(pairs) == len(set(one)) == len(set(other))
