"""Why a class gets the row that it gets: its way up, its seen relatives, the attention."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...core.results import Result, Table
from .baselines import nearest_seen
from .checkpoint import Trained
from .classes import find_class


def way_up(trained: Trained, node: int) -> list[int]:
    """Return the nodes from a class to a root, by way of the parents with the most ancestors."""
    child, parent = trained.graph.taxonomy.edges.T
    pairs = trained.graph.pairs
    path = [node]
    while len(parents := parent[child == path[-1]]):
        path.append(max(parents.tolist(), key=lambda i: len(pairs.ancestors(i)[0])))
    return path


def explain(trained: Trained, name: str, most: int) -> Result:
    """Show the way to the root, the closest seen classes, and the attention by distance.

    "Likeness" is the cosine of the predicted row with the true row of a seen class. Raises
    `DataError` for a name that is unknown or has several senses.
    """
    graph, taxonomy = trained.graph, trained.graph.taxonomy
    node = find_class(name, taxonomy, "--explain")
    path = way_up(trained, node)
    row = trained.predict([node])
    likeness = (trained.targets @ row[0]).tolist()
    place = {int(seen): i for i, seen in enumerate(graph.seen)}
    near = nearest_seen(graph.pairs, graph.seen, node, most)
    alike = torch.tensor(likeness).topk(min(most, len(likeness)))
    is_seen = node in place
    steps = [(taxonomy.title(i), taxonomy.ids[i], taxonomy.definition(i)) for i in path]
    relatives = [(taxonomy.title(i), str(d), f"{likeness[place[i]]:.3f}") for i, d in near]
    models = [
        (taxonomy.title(int(graph.seen[i])), f"{value:.3f}")
        for value, i in zip(alike.values.tolist(), alike.indices.tolist(), strict=True)
    ]
    attention = _attention(trained, node)
    notes = [f"vector: {'none' if not bool(graph.vectors[node].any()) else 'known'}"]
    notes += ["this is a seen class of the classifier"] if is_seen else []
    notes += [] if near else ["no seen class shares an ancestor: the row rests on the vector alone"]
    return Result(
        inputs={"class": name, "model": trained.name},
        metrics={
            "wnid": taxonomy.ids[node],
            "definition": taxonomy.definition(node),
            "path": [taxonomy.ids[i] for i in path],
            "closest_seen": [
                {"class": taxonomy.title(i), "wnid": taxonomy.ids[i], "steps": d,
                 "likeness": likeness[place[i]]}
                for i, d in near
            ],
            "attention": attention,
            "seen": is_seen,
        },
        tables=(
            Table("Way to the root", ("class", "id", "definition"), steps),
            Table("Closest seen classes", ("class", "steps", "likeness of the rows"), relatives),
            Table("Seen classes with the most similar rows", ("class", "likeness"), models),
            *_attention_table(attention),
        ),
        notes=tuple(notes),
    )  # fmt: skip


def _attention(trained: Trained, node: int) -> list[dict[str, float]]:
    """Return per distance: the attention of both phases, how many ancestors and descendants."""
    shares = trained.network.shares()
    if not shares[0]:
        return []
    pairs, most = trained.graph.pairs, trained.options.groups
    below = _counts(pairs.distance[pairs.above == node], most)
    above = _counts(pairs.ancestors(node)[1], most)
    return [
        {
            "distance": k,
            "descendants_attention": shares[0][k],
            "descendants": float(below[k]),
            "ancestors_attention": shares[1][k],
            "ancestors": float(above[k]),
        }
        for k in range(most + 1)
    ]


def _counts(distances: np.ndarray, most: int) -> Tensor:
    return torch.bincount(torch.from_numpy(np.minimum(distances, most)), minlength=most + 1)


def _attention_table(attention: list[dict[str, float]]) -> list[Table]:
    if not attention:
        return []
    last = len(attention) - 1
    rows = [
        (
            f"{k}{' or more' if k == last else ''}",
            f"{entry['descendants_attention']:.3f}",
            f"{entry['descendants']:.0f}",
            f"{entry['ancestors_attention']:.3f}",
            f"{entry['ancestors']:.0f}",
        )
        for k, entry in enumerate(attention)
    ]
    columns = ("distance", "attention", "descendants", "attention, second phase", "ancestors")
    return [Table("Attention by distance", columns, rows)]
