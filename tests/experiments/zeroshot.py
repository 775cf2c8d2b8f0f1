"""Experiments of `zeroshot`: five folds of ImageNet's classes, unseen photos, fine-tuning."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from mlkit.core.options import RunOptions
from mlkit.core.progress import Silent
from mlkit.core.runtime import Runtime, start
from mlkit.tasks.zeroshot.backbone import Backbone, open_backbone
from mlkit.tasks.zeroshot.checkpoint import Mixture, Trained, open_trained, predict_rows, save_model
from mlkit.tasks.zeroshot.classes import imagenet
from mlkit.tasks.zeroshot.config import (
    BackboneOptions,
    FinetuneTraining,
    GraphOptions,
    NetworkOptions,
    ZeroshotTraining,
)
from mlkit.tasks.zeroshot.data import Photos, open_photos, read_features
from mlkit.tasks.zeroshot.ensemble import EQUAL, PARTS
from mlkit.tasks.zeroshot.finetuning import fit_features
from mlkit.tasks.zeroshot.fit import fit_network
from mlkit.tasks.zeroshot.graph import Graph, open_graph
from mlkit.tasks.zeroshot.metrics import KS, ranks
from mlkit.tasks.zeroshot.scoring import Scorer
from mlkit.tasks.zeroshot.taxonomy import open_taxonomy
from mlkit.tasks.zeroshot.text import TextEncoder, find_encoder
from mlkit.tasks.zeroshot.tuning import choose

from .__main__ import spread

FOLDS = 5
GLOVE = "glove6b_50d_nouns.safetensors"
WEIGHTS = Path("tasks/zeroshot/weights")
# Length of the vectors that come along: principal components of MiniLM's 384 numbers.
EMBEDDED_WIDTH = 96
TRAINED = ("mlp", "gcnz", "gpm", "dgpm", "adgpm")
FREE = ("conse", "ridge", "ancestor")


def _say(*values: Any) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {json.dumps(values)}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Bench:
    """What the experiments share: photos of seen classes with features, and the classifier."""

    backbone: Backbone
    features: Tensor
    wnids: tuple[str, ...]
    runtime: Runtime


def _bench(data: Path, seed: int = 0) -> Bench:
    runtime = start(RunOptions(seed=seed, device="cpu", threads=1))
    backbone = open_backbone(BackboneOptions(), 1000)
    wordnet = open_taxonomy("wordnet")
    photos = open_photos(data / "imagenet_samples" / "labels.tsv", wordnet)
    features = _features(photos, backbone, runtime)
    wnids = tuple(wordnet.ids[node] for node in photos.nodes.tolist())
    return Bench(backbone, features, wnids, runtime)


def _features(photos: Photos, backbone: Backbone, runtime: Runtime) -> Tensor:
    features, kept, _ = read_features(photos.paths, backbone, runtime, 32, Silent())
    assert len(kept) == len(photos)
    return features


def _graph(data: Path, semantic: str, nodes: str = "official") -> Graph:
    source = str(data / "zeroshot" / GLOVE) if semantic == "glove" else semantic
    return open_graph(GraphOptions(semantic=source, nodes=nodes), Silent())  # type: ignore[arg-type]


def _training(epochs: int) -> ZeroshotTraining:
    return ZeroshotTraining(epochs=epochs, save_every=50)


def folds() -> list[np.ndarray]:
    """Return the classes (places among the 1000) held out in each fold, as section 8b does."""
    order = np.random.RandomState(0).permutation(1000)
    return [np.sort(part) for part in np.split(order, FOLDS)]


def five_folds(data: Path, seeds: int) -> dict[str, Any]:
    """All variants and free baselines on GloVe and the full graph: 150 epochs, 256 wide."""
    arms = {name: _arm(name, 350 if name == "gcnz" else 150) for name in TRAINED}
    return _five(data, seeds, "glove", arms, ensemble=False)


def five_folds_embedded(data: Path, seeds: int) -> dict[str, Any]:
    """The same with the vectors of definitions that come along."""
    arms = {name: _arm(name, 150) for name in ("gpm", "adgpm")}
    return _five(data, seeds, "embedded", arms, ensemble=True)


def five_folds_long(data: Path, seeds: int) -> dict[str, Any]:
    """The setting of the embedded model: 512 wide, 300 epochs; and ADGPM with --renormalise."""
    arms = {
        "adgpm": (NetworkOptions(hidden=512), _training(300)),
        "adgpm, renormalised": (NetworkOptions(hidden=512, renormalise=True), _training(300)),
        "gpm": (NetworkOptions(hidden=512, variant="gpm"), _training(300)),
    }
    return _five(data, seeds, "embedded", arms, ensemble=True)


Arm = tuple[NetworkOptions, ZeroshotTraining]


def _arm(variant: str, epochs: int) -> Arm:
    return NetworkOptions(variant=variant, hidden=256), _training(epochs)  # type: ignore[arg-type]


def _five(
    data: Path, seeds: int, semantic: str, arms: dict[str, Arm], *, ensemble: bool
) -> dict[str, Any]:
    """Return per seed hits of all photos over the folds, pooled, and then their spread."""
    bench, full = _bench(data), _graph(data, semantic)
    values: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        pooled: dict[str, dict[str, list[float]]] = {}
        for number, held in enumerate(folds()):
            for name, found in _fold(bench, full, held, number, seed, arms, ensemble).items():
                for key, parts in found.items():
                    pooled.setdefault(name, {}).setdefault(key, []).extend(parts)
                means = {k: round(float(np.mean(v)), 3) for k, v in found.items()}
                _say(semantic, seed, number, name, means)
        for name, found in pooled.items():
            for key, parts in found.items():
                mean = float(np.mean(parts)) * (1 if key in ("cos", "loss") else 100)
                values.setdefault(name, {}).setdefault(key, []).append(mean)
        # A run that is cut off still leaves the seeds that are complete.
        _say("so far", {n: {k: spread(v) for k, v in f.items()} for n, f in values.items()})
    return {n: {k: spread(v) for k, v in found.items()} for n, found in values.items()}


def _fold(
    bench: Bench,
    full: Graph,
    held: np.ndarray,
    number: int,
    seed: int,
    arms: dict[str, Arm],
    ensemble: bool,
) -> dict[str, dict[str, list[float]]]:
    """Return lists of hits of the fold's photos, by method; "cos" and "loss" are one number."""
    rest = np.delete(np.arange(1000), held)
    part = full.without(held)
    unseen = full.seen[held]
    fold = _Fold(bench, part, rest, unseen)
    found: dict[str, dict[str, list[float]]] = {}
    runtime = replace(bench.runtime, seed=seed)
    for name, (options, training) in arms.items():
        # GCNZ's six layers reach nearly everywhere: it gets the induced graph.
        graph = _induced(full, held) if name == "gcnz" else part
        truth = bench.backbone.targets
        network, fitted = fit_network(graph, truth[rest], options, training, runtime)
        predict = _predictor(network, graph, options)
        found[name] = fold.measure_rows(predict)
        found[name]["cos"] = [float((predict(unseen) * truth[held]).sum(1).mean())]
        found[name]["loss"] = [fitted.history[-1]["rows"]]
        if name == "adgpm" and ensemble:
            found |= _ensemble(bench, full, number, seed, options, training, fold, predict)
    for name in FREE:
        found[name] = fold.measure_part(name)
    return found


def _predictor(network: Any, part: Graph, options: NetworkOptions) -> Callable[..., Tensor]:
    return lambda nodes: predict_rows(network, part, options, nodes)


def _induced(full: Graph, held: np.ndarray) -> Graph:
    """Return the graph of the 1000 classes and what is above them alone, the same classes first."""
    above = full.pairs.above[np.isin(full.pairs.below, full.seen)]
    kept = np.concatenate((full.seen, np.setdiff1d(above, full.seen)))
    small = Graph(full.taxonomy.subset(kept), full.vectors[torch.from_numpy(kept)], full.seen)
    return small.without(held)


@dataclass(frozen=True)
class _Fold:
    """Photos of held-out classes, and how methods do on them."""

    bench: Bench
    part: Graph
    rest: np.ndarray
    unseen: np.ndarray

    @property
    def _truth(self) -> tuple[Tensor, np.ndarray]:
        ids = [self.part.taxonomy.index[wnid] for wnid in self.bench.wnids]
        inside = np.isin(ids, self.unseen)
        return torch.from_numpy(np.searchsorted(self.unseen, np.array(ids)[inside])), inside

    def scorer(self, rows: Tensor, everything: bool, true_seen: bool) -> Scorer:
        nodes = np.concatenate((self.unseen, self.part.seen)) if everything else self.unseen
        backbone = self.bench.backbone
        return Scorer(
            self.part,
            backbone.rows[self.rest],
            backbone.targets[self.rest],
            nodes,
            rows,
            true_seen,
        )

    def _measure(
        self, score: Callable[[Scorer, Tensor], Tensor], predict: Callable[..., Tensor]
    ) -> dict[str, list[float]]:
        truth, inside = self._truth
        features = self.bench.features[torch.from_numpy(inside)]
        result: dict[str, list[float]] = {}
        for label, everything, true_seen in (
            ("hit", False, False),
            ("gzsl true", True, True),
            ("gzsl predicted", True, False),
        ):
            nodes = np.concatenate((self.unseen, self.part.seen)) if everything else self.unseen
            scorer = self.scorer(predict(nodes), everything, true_seen)
            rank = ranks(score(scorer, features), truth)
            for k in KS:
                result[f"{label}@{k}"] = (rank <= k).double().tolist()
        return result

    def measure_rows(self, predict: Callable[..., Tensor]) -> dict[str, list[float]]:
        """Return hits of rows that `predict` makes for nodes."""
        return self._measure(lambda scorer, x: scorer.part("graph", x), predict)

    def measure_part(self, name: str) -> dict[str, list[float]]:
        """Return hits of a method that needs no training."""
        width = self.bench.backbone.rows.shape[1]
        return self._measure(
            lambda scorer, x: scorer.part(name, x), lambda nodes: torch.zeros(len(nodes), width)
        )

    def measure_mixture(
        self, mixture: Mixture, predict: Callable[..., Tensor]
    ) -> dict[str, list[float]]:
        """Return hits of the ensemble."""
        return self._measure(
            lambda scorer, x: scorer.scores(x, "ensemble", mixture, mixture.penalty), predict
        )


def _ensemble(
    bench: Bench,
    full: Graph,
    number: int,
    seed: int,
    options: NetworkOptions,
    training: ZeroshotTraining,
    fold: _Fold,
    predict: Callable[..., Tensor],
) -> dict[str, dict[str, list[float]]]:
    """Choose the mixture with the next fold held out of the training classes, then measure it."""
    everything = folds()
    following = everything[(number + 1) % FOLDS]
    held = np.searchsorted(fold.rest, following)  # places among the 800 classes of this fold
    runtime = replace(bench.runtime, seed=seed)

    def refit(part: Graph, targets: Tensor) -> Any:
        return fit_network(part, targets, options, training, runtime)[0]

    nodes = np.array([full.taxonomy.index[wnid] for wnid in bench.wnids])
    known = np.isin(nodes, fold.part.seen)
    mixture, validation = choose(
        fold.part,
        bench.backbone.rows[fold.rest],
        bench.backbone.targets[fold.rest],
        held,
        bench.features[torch.from_numpy(known)],
        nodes[known],
        options,
        refit,
    )
    _say("mixture", number, vars(mixture), validation)
    found = {"ensemble": fold.measure_mixture(mixture, predict)}
    for part, weight in mixture.weights.items():
        found["ensemble"][f"weight of {part}"] = [weight / 100]
    found["ensemble"]["penalty"] = [mixture.penalty / 100]
    found["ensemble, equal weights"] = fold.measure_mixture(Mixture(dict(EQUAL)), predict)
    for left in PARTS:
        weights = {part: 0.0 if part == left else 0.5 for part in PARTS}
        found[f"equal, without {left}"] = fold.measure_mixture(Mixture(weights), predict)
    return found


def unseen_photos(data: Path, seeds: int) -> dict[str, Any]:
    """Photos of classes that are not in ImageNet-1k: regress on all 1000 rows."""
    bench = _bench(data)
    values: dict[str, dict[str, list[float]]] = {}
    for semantic in ("glove", "embedded"):
        full = _graph(data, semantic)
        photos = open_photos(data / "unseen_photos" / "labels.tsv", full.taxonomy)
        features = _features(photos, bench.backbone, bench.runtime)
        unseen = photos.nodes.unique().numpy()
        wnids = tuple(full.taxonomy.ids[node] for node in photos.nodes.tolist())
        shown = Bench(bench.backbone, features, wnids, bench.runtime)
        fold = _Fold(shown, full, np.arange(1000), unseen)
        for seed in range(seeds):
            for name in ("gpm", "dgpm", "adgpm"):
                options, training = _arm(name, 150)
                runtime = replace(bench.runtime, seed=seed)
                network, _ = fit_network(full, bench.backbone.targets, options, training, runtime)
                predict = _predictor(network, full, options)
                _keep(values, f"{name}, {semantic}", fold.measure_rows(predict))
        for name in FREE:
            if name != "ancestor" or semantic == "glove":
                _keep(values, f"{name}, {semantic}", fold.measure_part(name))
        _say("so far", {n: {k: spread(v) for k, v in f.items()} for n, f in values.items()})
    trained = open_trained()
    embedded = _Fold(shown, trained.graph, np.arange(1000), _same(full, trained.graph, unseen))
    _keep(values, "embedded model, network", embedded.measure_rows(trained.predict))
    _keep(
        values,
        "embedded model, ensemble",
        embedded.measure_mixture(trained.mixture, trained.predict),
    )
    return {n: {k: spread(v) for k, v in found.items()} for n, found in values.items()}


def _same(full: Graph, other: Graph, nodes: np.ndarray) -> np.ndarray:
    places = [other.taxonomy.index[full.taxonomy.ids[node]] for node in nodes]
    assert places == sorted(places)
    return np.array(places)


def _keep(
    values: dict[str, dict[str, list[float]]], name: str, found: dict[str, list[float]]
) -> None:
    for key, parts in found.items():
        mean = 100 * float(np.mean(parts))
        values.setdefault(name, {}).setdefault(key, []).append(mean)


def finetuning(data: Path, seeds: int) -> dict[str, Any]:
    """The mechanics on a photo per class: the loss falls, the rows stay; and what unseen gain."""
    trained = open_trained()
    photos = open_photos(data / "imagenet_samples" / "labels.tsv", trained.graph.taxonomy)
    unseen = open_photos(data / "unseen_photos" / "labels.tsv", trained.graph.taxonomy)
    nodes = unseen.nodes.unique().numpy()
    truth = torch.from_numpy(np.searchsorted(nodes, unseen.nodes.numpy()))
    rows = trained.predict(nodes)
    result: dict[str, Any] = {}
    for seed in range(seeds):
        runtime = start(RunOptions(seed=seed, device="cpu", threads=1))
        model = open_trained()
        before = _features(unseen, model.backbone, runtime) @ rows.T
        fixed = model.predict(model.graph.seen)
        training = FinetuneTraining(epochs=3, batch_size=50, limit=200)
        tuned, fitted = fit_features(model, photos, training, "features.15", runtime)
        after = _features(unseen, tuned, runtime) @ rows.T
        assert torch.equal(fixed, replace(model, backbone=tuned).predict(model.graph.seen))
        entry = {
            "loss": [e["loss"] for e in fitted.history],
            "unseen hit@1 before": float((ranks(before, truth) == 1).double().mean()),
            "unseen hit@1 after": float((ranks(after, truth) == 1).double().mean()),
        }
        _say("finetuning", seed, entry)
        result[str(seed)] = entry
    return result


def vectors(data: Path, seeds: int) -> dict[str, Any]:
    """Make the vectors that come along: MiniLM on names and definitions, principal components."""
    wordnet = open_taxonomy("wordnet")
    graph = _official(wordnet)
    texts = [wordnet.text(wordnet.index[wnid]) for wnid in graph]
    found = TextEncoder(find_encoder(None)).encode(texts)
    centred = found - found.mean(0)
    _, values, axes = torch.linalg.svd(centred, full_matrices=False)
    small = centred @ axes[:EMBEDDED_WIDTH].T
    levels = (small / small.abs().amax(1, keepdim=True) * 127).round().to(torch.int8)
    synsets = torch.tensor([int(wnid[1:]) for wnid in graph], dtype=torch.int32)
    order = synsets.argsort()
    tensors = {"synsets": synsets[order].contiguous(), "vectors": levels[order].contiguous()}
    save_file(tensors, WEIGHTS / "vectors.safetensors")
    kept = float(values[:EMBEDDED_WIDTH].square().sum() / values.square().sum())
    return {"classes": len(graph), "variance kept": kept}


def _official(wordnet: Any) -> list[str]:
    from mlkit.tasks.zeroshot.closure import select_nodes

    lists = imagenet()
    places = {name: [wordnet.index[w] for w in found] for name, found in lists.items()}
    # Above ImageNet's structure, too: the graph of --nodes induced has those.
    above = select_nodes(len(wordnet), wordnet.edges, places["train_1k"] + places["2-hops"])
    rest = select_nodes(
        len(wordnet), wordnet.edges, places["train_1k"] + places["all"], places["structure_nodes"]
    )
    nodes = dict.fromkeys([*above, *rest, *places["structure_nodes"]])
    return [wordnet.ids[i] for i in nodes]


def embedded(data: Path, seeds: int) -> dict[str, Any]:
    """Train the embedded model and write it into the package, with a tuned mixture."""
    bench, graph = _bench(data), _graph(data, "embedded")
    options, training = NetworkOptions(), _training(300)
    network, fitted = fit_network(graph, bench.backbone.targets, options, training, bench.runtime)

    def refit(part: Graph, targets: Tensor) -> Any:
        return fit_network(part, targets, options, training, bench.runtime)[0]

    nodes = np.array([graph.taxonomy.index[wnid] for wnid in bench.wnids])
    mixture, found = choose(
        graph,
        bench.backbone.rows,
        bench.backbone.targets,
        folds()[0],
        bench.features,
        nodes,
        options,
        refit,
    )
    content = {
        "graph": "wordnet",
        "config": {"semantic": "embedded", "nodes": "official", **options.to_dict()},
        "training": training.to_dict(),
        "metrics": {**fitted.history[-1], **found},
    }
    model = Trained("imagenet", graph, network.half(), options, bench.backbone, mixture, content)
    save_model(WEIGHTS / "imagenet.safetensors", model, vectors=False)
    return {"mixture": vars(mixture), **content["metrics"]}
