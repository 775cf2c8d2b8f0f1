"""Looking through a taxonomy, class lists and vectors before a long run."""

from __future__ import annotations

import numpy as np

from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from .config import CheckConfig
from .graph import open_graph


def check_graph(config: CheckConfig, progress: Progress | None = None) -> Result:
    """Count nodes, edges, roots and classes without vectors or relatives.

    Raises `DataError` when training could not start.
    """
    graph = open_graph(config, progress or Silent())
    edges, count = graph.taxonomy.edges, len(graph.taxonomy)
    degree = np.bincount(edges.ravel(), minlength=count)
    children = np.bincount(edges[:, 0], minlength=count)
    empty = (graph.vectors == 0).all(1)
    metrics = {
        "nodes": count,
        "edges": len(edges),
        "pairs": len(graph.pairs.below),
        "depth": int(graph.pairs.distance.max()),
        "roots": int((children == 0).sum()),
        "isolated": int((degree == 0).sum()),
        "seen": len(graph.seen),
        "without_vector": int(empty.sum()),
        "seen_without_vector": int(empty[graph.seen].sum()),
        "vector_length": graph.vectors.shape[1],
    }
    rows = [(name.replace("_", " "), f"{value:,}") for name, value in metrics.items()]
    return Result(
        inputs={"graph": config.graph, "semantic": config.semantic},
        metrics=metrics,
        tables=(Table("Graph", ("", "value"), rows),),
        notes=("mlkit train zeroshot would work with these options",),
    )
