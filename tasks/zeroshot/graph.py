"""The graph of a model: its nodes, their vectors, which are seen; and how it is put together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ...core.errors import DataError, UsageError
from ...core.progress import Progress
from .baselines import related
from .classes import Chosen, imagenet, read_classes
from .closure import Array, Pairs, close, select_nodes
from .config import GraphOptions
from .taxonomy import WORDNET, Taxonomy, is_wnid, open_taxonomy
from .text import TextEncoder, find_encoder
from .vectors import class_vectors, needed_words, read_words

EMBEDDED = "embedded"
MINILM = "minilm"


@dataclass(frozen=True)
class Graph:
    """Nodes with unit vectors (N, C); `seen` (S,) are the nodes of the classifier's classes."""

    taxonomy: Taxonomy
    vectors: Tensor
    seen: Array

    @cached_property
    def pairs(self) -> Pairs:
        """Who is above whom, with shortest distances."""
        return close(len(self.taxonomy), self.taxonomy.edges)

    def without(self, places: Array) -> Graph:
        """Return the graph in which the seen classes at `places` (of `seen`) count as unseen."""
        return Graph(self.taxonomy, self.vectors, np.delete(self.seen, places))


def open_graph(options: GraphOptions, progress: Progress) -> Graph:
    """Return the graph that the options describe, with the seen classes first.

    Raises `DataError` for what is wrong in the files, `UsageError` for options that do not fit.
    """
    with progress.task("reading the taxonomy"):
        whole = open_taxonomy(options.graph)
    seen = _seen(options, whole)
    asked = read_classes(options.classes, whole).places if options.classes else ()
    chosen = _choose(options, whole, [*seen.places, *asked])
    taxonomy = whole.subset(chosen)
    vectors = open_vectors(options, taxonomy, progress)
    graph = Graph(taxonomy, vectors, np.arange(len(seen)))
    for warning in describe_gaps(graph, [chosen.index(place) for place in asked]):
        progress.warn(warning)
    return graph


def _seen(options: GraphOptions, whole: Taxonomy) -> Chosen:
    if options.seen is not None:
        found = read_classes(options.seen, whole)
        lines = options.seen.read_text(encoding="utf-8-sig").splitlines()
        count = sum(bool(line.strip()) and not line.startswith("#") for line in lines)
        if len(found) != count:
            raise DataError(f"{options.seen}: {count} lines name {len(found)} different classes")
        return found
    if options.graph != WORDNET:
        raise UsageError(
            f"--graph {options.graph} needs --seen FILE",
            "name the classifier's classes, one a line, in its order",
        )
    places = tuple(whole.index[wnid] for wnid in imagenet()["train_1k"])
    return Chosen(tuple(whole.title(place) for place in places), places)


def _choose(options: GraphOptions, whole: Taxonomy, wanted: list[int]) -> list[int]:
    """Return the nodes of the graph, those `wanted` first."""
    if options.nodes == "full" or (options.nodes == "official" and options.graph != WORDNET):
        return list(dict.fromkeys([*wanted, *range(len(whole))]))
    if options.graph != WORDNET:
        return select_nodes(len(whole), whole.edges, wanted)
    places = {name: [whole.index[wnid] for wnid in part] for name, part in imagenet().items()}
    stops = places["structure_nodes"]
    above = select_nodes(len(whole), whole.edges, [*wanted, *places["all"]], stops)
    official = list(dict.fromkeys([*above, *stops]))
    if options.nodes == "official":
        return official
    inside = np.zeros(len(whole), dtype=bool)
    inside[official] = True
    return select_nodes(len(whole), whole.edges[inside[whole.edges].all(1)], wanted)


def open_vectors(options: GraphOptions, taxonomy: Taxonomy, progress: Progress) -> Tensor:
    """Return the unit vectors (N, C) of a taxonomy's classes; zeros where nothing is known."""
    if options.semantic == MINILM:
        encoder = TextEncoder(find_encoder(options.text_encoder))
        return encoder.encode([taxonomy.text(i) for i in range(len(taxonomy))], progress)
    if options.semantic == EMBEDDED:
        return embedded_vectors(taxonomy)
    path = Path(options.semantic)
    needed = needed_words(taxonomy.lemmas, options.case_sensitive)
    words = read_words(path, needed, progress)
    if not words:
        raise DataError(f"{path} has none of the words needed", "is it a file of word vectors?")
    width = len(next(iter(words.values())))
    return class_vectors(taxonomy.lemmas, words, width, options.case_sensitive)


def embedded_vectors(taxonomy: Taxonomy) -> Tensor:
    """Return the vectors that come along, for ImageNet's nodes of WordNet; others get zeros.

    Raises `UsageError` for a taxonomy whose classes are no synsets.
    """
    if not any(is_wnid(name) for name in taxonomy.ids):
        raise UsageError(
            "the vectors that come along are those of WordNet's classes alone",
            "give --semantic minilm, or a file of word vectors",
        )
    tensors = load_file(str(files(__package__) / "weights" / "vectors.safetensors"))
    place = {f"n{number:08d}": i for i, number in enumerate(tensors["synsets"].tolist())}
    found = torch.tensor([place.get(name, -1) for name in taxonomy.ids])
    rows = F.normalize(tensors["vectors"].float(), dim=1)[found.clamp_min(0)]
    return rows * (found >= 0)[:, None]


def describe_gaps(graph: Graph, asked: list[int]) -> list[str]:
    """Say which asked classes are seen already, lack a vector, or share no ancestor with any."""
    taxonomy, pairs = graph.taxonomy, graph.pairs
    member = set(graph.seen.tolist())
    empty = (graph.vectors == 0).all(1)
    near = related(pairs, graph.seen)
    lonely = [i for i in asked if not near[i]]
    lost = [i for i in lonely if empty[i] and len(pairs.ancestors(i)[0]) == 1]
    if lost:
        raise DataError(
            f"'{taxonomy.title(lost[0])}' ({taxonomy.ids[lost[0]]}) has neither a vector nor "
            "relatives: nothing can be predicted",
            "add its parent to --graph, or its words to --semantic",
        )
    groups = {
        "are seen classes already": [i for i in asked if i in member],
        "have no vector: their rows rest on their relatives": [i for i in asked if empty[i]],
        "share no ancestor with a seen class: their rows rest on the vector alone": lonely,
    }
    return [
        f"{len(found)} of the classes {what}: {', '.join(taxonomy.title(i) for i in found[:5])}"
        for what, found in groups.items()
        if found
    ]
