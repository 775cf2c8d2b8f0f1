"""What several test modules of `zeroshot` need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mlkit.tasks.zeroshot.closure import Pairs
from mlkit.tasks.zeroshot.config import NetworkOptions
from mlkit.tasks.zeroshot.graph import Graph
from mlkit.tasks.zeroshot.model import RowNetwork
from mlkit.tasks.zeroshot.taxonomy import Taxonomy

# Two trees and a node with two parents (3); 10 is a root of its own.
EDGES = np.array(
    [(1, 0), (2, 0), (3, 1), (3, 2), (4, 1), (5, 3), (6, 3), (8, 7), (9, 7)], dtype=np.int64
)
COUNT = 11


def random_dag(count: int, seed: int) -> np.ndarray:
    """Return edges (child, parent) in which every node has up to three parents before it."""
    random = np.random.default_rng(seed)
    edges = [
        (child, int(parent))
        for child in range(1, count)
        for parent in random.choice(child, min(child, int(random.integers(0, 4))), replace=False)
    ]
    order = random.permutation(count)  # ids say nothing about the order
    return order[np.array(edges, dtype=np.int64).reshape(-1, 2)]


def graph(seed: int = 0, edges: np.ndarray = EDGES, count: int = COUNT, width: int = 5) -> Graph:
    """Return a graph with random unit vectors; every other node is seen."""
    generator = torch.Generator().manual_seed(seed)
    vectors = F.normalize(torch.randn(count, width, generator=generator), dim=1)
    ids = tuple(f"class_{i}" for i in range(count))
    taxonomy = Taxonomy(ids, tuple((name,) for name in ids), edges)
    return Graph(taxonomy, vectors, np.arange(0, count, 2))


def network(options: NetworkOptions, width: int = 5, outputs: int = 4, seed: int = 1) -> RowNetwork:
    """Return a network in eval mode with random parameters, biases and attention included."""
    torch.manual_seed(seed)
    made = RowNetwork(width, outputs, options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made.eval()


def dense_groups(pairs: Pairs, groups: int) -> list[Tensor]:
    """Return A^a_k [u, x] = 1 if x is an ancestor-or-self of u at group k, densely."""
    found = [torch.zeros(pairs.count, pairs.count) for _ in range(groups + 1)]
    for u, x, d in zip(pairs.below, pairs.above, pairs.distance, strict=True):
        found[min(int(d), groups)][u, x] = 1
    return found


def normalised(matrix: Tensor) -> Tensor:
    """Return D^-1 A; empty rows stay zero."""
    return matrix / matrix.sum(1, keepdim=True).clamp_min(1)


COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (30, 40, 220),
    "white": (240, 240, 240),
    "black": (10, 10, 10),
    "yellow": (230, 220, 30),
}


def write_workshop(folder: Path, seed: int = 0) -> None:
    """Write a small world of colours: a classifier, a taxonomy, vectors, lists and photos."""
    (folder / "net.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Flatten(),\n"
        "                         nn.Linear(6, 4))\n"
        "build.input_spec = {'size': 8, 'resize': 8}\n"
    )
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.AvgPool2d(8),
        torch.nn.Conv2d(3, 6, 1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(6, 4),
    )
    torch.save(model.state_dict(), folder / "net.pth")
    (folder / "tree.tsv").write_text(
        "colour\t\nbright\tcolour\ndark\tcolour\nred\tbright\ngreen\tbright\nblue\tdark\n"
        "black\tdark\nwhite\tbright\nyellow\tbright\nyellow\tgreen\n"
    )
    (folder / "seen.txt").write_text("red\ngreen\nblue\nblack\n")
    (folder / "unseen.txt").write_text("white\nyellow\n")
    words = ("red", "green", "blue", "black", "white", "yellow", "bright", "dark", "colour")
    random = np.random.default_rng(seed)
    lines = [" ".join([w, *(f"{v:.3f}" for v in random.normal(size=6))]) for w in words]
    (folder / "words.txt").write_text("\n".join(lines) + "\n")
    for name, colour in COLOURS.items():
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(6):
            noise = random.integers(-10, 11, (12, 14, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.png")
