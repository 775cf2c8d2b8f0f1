"""The file of a trained model: graph, network, classifier; and files of rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core import checkpoint
from ...core.checkpoint import Metadata
from ...core.errors import CheckpointError, DataError, UsageError
from ...core.files import replacing
from .backbone import Backbone, open_backbone, restore
from .closure import Array
from .config import BackboneOptions, NetworkOptions
from .ensemble import EQUAL
from .graph import Graph, embedded_vectors
from .links import plan
from .model import RowNetwork
from .taxonomy import WORDNET, Taxonomy, open_taxonomy

METHOD = "zeroshot"


@dataclass(frozen=True)
class Mixture:
    """How scores are mixed, and what seen candidates lose; `tuned` says whether on photos."""

    weights: dict[str, float] = field(default_factory=lambda: dict(EQUAL))
    penalty: float = 0.0
    tuned: bool = False


@dataclass(frozen=True)
class Trained:
    """A network with its graph and its classifier."""

    name: str
    graph: Graph
    network: RowNetwork
    options: NetworkOptions
    backbone: Backbone
    mixture: Mixture
    content: dict[str, Any]

    @cached_property
    def targets(self) -> Tensor:
        """The true rows (S, P) of the seen classes, of norm 1."""
        return self.backbone.targets

    def predict(self, nodes: Array | Sequence[int]) -> Tensor:
        """Return the predicted rows (R, P) of nodes, of norm 1."""
        return predict_rows(self.network, self.graph, self.options, np.asarray(nodes))


@torch.no_grad()
def predict_rows(
    network: RowNetwork, graph: Graph, options: NetworkOptions, nodes: Array
) -> Tensor:
    """Return the rows (R, P) of `nodes` alone, in eval mode; exactly those of a full pass."""
    chosen = plan(
        options.variant,
        graph.pairs,
        graph.taxonomy.edges,
        nodes,
        options.groups,
        len(network.layers),
    )
    network.eval()
    return network(graph.vectors[chosen.nodes], chosen)


def save_model(path: Path, trained: Trained, vectors: bool = True) -> None:
    """Write a model; of WordNet only the ids, and the classifier only where it is the user's.

    Without `vectors` those that come along are used when the file is opened.
    """
    graph, taxonomy = trained.graph, trained.graph.taxonomy
    tensors = {f"network.{k}": v for k, v in trained.network.state_dict().items()}
    tensors |= {
        "ids": _to_bytes(taxonomy.ids),
        "edges": torch.from_numpy(taxonomy.edges).int(),
        "seen": torch.from_numpy(graph.seen),
    }
    if vectors:
        tensors["vectors"] = graph.vectors.half()
    if trained.content["graph"] != WORDNET:
        tensors["lemmas"] = _to_bytes(["|".join(names) for names in taxonomy.lemmas])
        if taxonomy.definitions:
            tensors["definitions"] = _to_bytes(taxonomy.definitions)
    backbone = trained.backbone
    if backbone.own_weights:
        tensors |= {f"backbone.{k}": v for k, v in backbone.state().items()}
    content = {
        **trained.content,
        "network": trained.options.to_dict(),
        "width": [graph.vectors.shape[1], backbone.rows.shape[1]],
        "backbone": {"recipe": backbone.recipe.to_dict(), "own_weights": backbone.own_weights},
        "mixture": vars(trained.mixture),
        "attention": trained.network.shares(),
    }
    checkpoint.save(path, tensors, Metadata(METHOD, "model", content))


def open_trained(
    path: Path | None = None, factory: str | None = None, other: BackboneOptions | None = None
) -> Trained:
    """Return what `save_model` wrote, or the embedded model, in eval mode.

    `other` names a classifier of the same classes to take the place of the model's own.
    Raises `CheckpointError` when the file disagrees with itself.
    """
    place = path or Path(str(files(__package__) / "weights" / "imagenet.safetensors"))
    tensors, metadata = checkpoint.load(place, METHOD)
    content = metadata.content
    try:
        options = NetworkOptions.create(**content["network"])
        taxonomy = _taxonomy(tensors, content)
        seen = tensors["seen"].numpy()
        mixture = Mixture(**content["mixture"])
        inputs, outputs = content["width"]
        if other is not None:
            backbone = open_backbone(other, len(seen))
        else:
            backbone = restore(content["backbone"], _part(tensors, "backbone."), place, factory)
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise CheckpointError(f"{place}: its metadata lacks or distorts {error}") from error
    stored = tensors.get("vectors")
    vectors = stored.float() if stored is not None else embedded_vectors(taxonomy)
    if other is None and backbone.rows.shape != (len(seen), outputs):
        raise CheckpointError(
            f"{place} predicts rows of {outputs} numbers for {len(seen)} seen classes; its "
            f"classifier has {len(backbone.weight)} rows of {backbone.rows.shape[1]}"
        )
    network = RowNetwork(inputs, outputs, options)
    state = {name: tensor.float() for name, tensor in _part(tensors, "network.").items()}
    checkpoint.load_into(network, state, place)
    graph = Graph(taxonomy, vectors, seen)
    return Trained(place.name, graph, network.eval(), options, backbone, mixture, content)


def load(path: str | Path) -> Trained:
    """Return the model in a file that `mlkit train zeroshot` wrote: `.predict`, `.backbone`."""
    return open_trained(Path(path))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _taxonomy(tensors: dict[str, Tensor], content: dict[str, Any]) -> Taxonomy:
    ids = _to_texts(tensors["ids"])
    edges = tensors["edges"].numpy().astype(np.int64)
    if content["graph"] == WORDNET:
        whole = open_taxonomy(WORDNET)
        places = [whole.index[name] for name in ids]
        lemmas = tuple(whole.lemmas[i] for i in places)
        return Taxonomy(ids, lemmas, edges, tuple(whole.definitions[i] for i in places))
    lemmas = tuple(tuple(names.split("|")) for names in _to_texts(tensors["lemmas"]))
    definitions = _to_texts(tensors["definitions"]) if "definitions" in tensors else ()
    return Taxonomy(ids, lemmas, edges, definitions)


def _to_bytes(texts: Sequence[str]) -> Tensor:
    """Return texts as bytes, uint8, a zero between them: metadata would be too small for them."""
    joined = "\0".join(texts).encode()
    return torch.frombuffer(bytearray(joined or b"\0"), dtype=torch.uint8)


def _to_texts(data: Tensor) -> tuple[str, ...]:
    return tuple(data.numpy().tobytes().decode().split("\0"))


# --- rows alone ---


def save_rows(path: Path, ids: Sequence[str], rows: Tensor) -> None:
    """Write rows (R, P) of classes: `.pred` as the official code reads it, else safetensors."""
    if path.suffix == ".pred":
        with replacing(path) as temporary:
            torch.save({"wnids": list(ids), "pred": rows.clone()}, temporary)
        return
    checkpoint.save(path, {"pred": rows, "ids": _to_bytes(ids)}, Metadata(METHOD, "rows", {}))


def read_rows(path: Path) -> tuple[tuple[str, ...], Tensor]:
    """Return (ids, rows (R, P) of norm 1) of a file that `save_rows` or the official code wrote.

    Raises `CheckpointError` for anything else; nothing is unpickled.
    """
    if path.suffix == ".safetensors":
        tensors, _ = checkpoint.load(path, METHOD, "rows")
        ids, rows = _to_texts(tensors["ids"]), tensors["pred"]
    else:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
            ids, rows = tuple(str(wnid) for wnid in found["wnids"]), found["pred"].float()
        except Exception as error:  # random bytes make the unpickler fail in many ways
            reason = str(error).partition("\n")[0][:120] or type(error).__name__
            raise CheckpointError(
                f"{path} is no file of predicted rows ({reason})",
                "give a .pred with 'wnids' and 'pred', or what 'mlkit data zeroshot-rows' wrote",
            ) from error
    if rows.dim() != 2 or len(rows) != len(ids):
        raise CheckpointError(f"{path}: {len(ids)} ids, but rows of shape {tuple(rows.shape)}")
    return ids, F.normalize(rows, dim=1)


def rows_for(path: Path, taxonomy: Taxonomy, nodes: Sequence[int], width: int) -> Tensor:
    """Return the rows (R, P) of nodes from a file of rows.

    Raises `CheckpointError` when rows have another width, `DataError` when classes are missing.
    """
    ids, rows = read_rows(path)
    if rows.shape[1] != width:
        raise CheckpointError(
            f"{path} has rows of {rows.shape[1]} numbers, the classifier has {width} "
            f"({width - 1} features and a bias)",
            "name the classifier that they were made for with --backbone",
        )
    place = {name: i for i, name in enumerate(ids)}
    missing = [taxonomy.ids[node] for node in nodes if taxonomy.ids[node] not in place]
    if missing:
        raise DataError(f"{path} has no row for {len(missing)} classes: {', '.join(missing[:5])}")
    return rows[torch.tensor([place[taxonomy.ids[node]] for node in nodes])]
