"""The graph of ImageNet as section 2.1 of the specification counts it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mlkit.core.progress import Silent
from mlkit.tasks.zeroshot.classes import imagenet
from mlkit.tasks.zeroshot.config import GraphOptions
from mlkit.tasks.zeroshot.graph import open_graph


def test_the_official_graph() -> None:
    graph = open_graph(GraphOptions(), Silent())
    taxonomy, pairs = graph.taxonomy, graph.pairs
    assert (len(taxonomy), len(taxonomy.edges), len(pairs.below)) == (32_324, 32_544, 200_082)
    groups = np.bincount(np.minimum(pairs.distance, 4))
    assert groups.tolist() == [32_324, 32_544, 32_629, 30_750, 71_835]
    assert pairs.distance.max() == 13
    children = np.bincount(taxonomy.edges[:, 0], minlength=len(taxonomy))
    degree = np.bincount(taxonomy.edges.ravel(), minlength=len(taxonomy))
    assert ((children == 0).sum(), (degree == 0).sum()) == (309, 214)
    assert taxonomy.ids[:1000] == tuple(imagenet()["train_1k"])
    assert taxonomy.ids[1000:21_842] == tuple(imagenet()["all"])
    torch.testing.assert_close(graph.vectors.norm(dim=1), torch.ones(32_324))
    # The traffic light has no parent in this graph.
    assert not (taxonomy.edges[:, 0] == taxonomy.index["n06874185"]).any()


def test_smaller_and_larger_graphs(tmp_path: Path) -> None:
    induced = open_graph(GraphOptions(nodes="induced"), Silent())
    sizes = (len(induced.taxonomy), len(induced.taxonomy.edges), len(induced.pairs.below))
    assert sizes == (1_825, 1_883, 13_077)
    (tmp_path / "c.txt").write_text("okapi\n")
    more = open_graph(GraphOptions(nodes="induced", classes=tmp_path / "c.txt"), Silent())
    assert more.taxonomy.title(1000) == "okapi"
    full = open_graph(GraphOptions(nodes="full"), Silent())
    assert len(full.taxonomy) == 82_115
    assert int((full.vectors != 0).any(1).sum()) == 32_364


@pytest.mark.parametrize("places", [[0], [3, 999]])
def test_without_makes_seen_classes_unseen(places: list[int]) -> None:
    induced = open_graph(GraphOptions(nodes="induced"), Silent())
    part = induced.without(np.array(places))
    assert sorted({*range(1000)} - set(part.seen.tolist())) == places
    assert part.taxonomy is induced.taxonomy
