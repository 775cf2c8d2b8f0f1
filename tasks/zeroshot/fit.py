"""Training: from a classifier's rows and a graph to a network that predicts rows."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.errors import UsageError
from ...core.options import RunOptions, TrainOptions
from ...core.progress import Progress, Silent
from ...core.report import write_report
from ...core.results import Result, Table
from ...core.runtime import Runtime, start
from ...core.training import Fitted, Run, fit
from .backbone import Backbone, open_backbone
from .baselines import ancestor_rows, ridge_rows
from .checkpoint import Mixture, Trained, save_model
from .config import NetworkOptions, TrainConfig, ZeroshotTraining
from .data import Photos, open_photos
from .graph import Graph, open_graph
from .links import plan
from .losses import Regression
from .model import RowNetwork
from .tuning import tune

# What each preset fills in where the user gave nothing: hidden width and epochs.
PRESETS = {"quick": (256, 150), "standard": (512, 300), "paper": (2048, 3000)}


class Once:
    """A source of one sample: every step sees all seen classes."""

    def __len__(self) -> int:
        return 1

    def fetch(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Return nothing of interest."""
        return indices


def fit_network(
    graph: Graph,
    targets: Tensor,
    options: NetworkOptions,
    training: TrainOptions,
    runtime: Runtime,
    **engine: Any,
) -> tuple[RowNetwork, Fitted]:
    """Return a network, in eval mode on the CPU, fitted to `targets` (S, P) of `graph.seen`.

    Only the rows of seen classes are computed, with what they depend on: exactly as if all were.
    """
    torch.manual_seed(runtime.seed)
    network = RowNetwork(graph.vectors.shape[1], targets.shape[1], options)
    chosen = plan(
        options.variant,
        graph.pairs,
        graph.taxonomy.edges,
        graph.seen,
        options.groups,
        len(network.layers),
    ).to(runtime.device)
    vectors = graph.vectors[chosen.nodes.cpu()]
    objective = Regression(network, vectors, chosen, targets, training.weight_decay)
    coupled = training.model_copy(update={"weight_decay": 0.0})
    fitted = fit(objective, Once(), coupled, runtime, method="zeroshot", **engine)
    return network.cpu().eval(), fitted


def resolve(
    config: TrainConfig, training: ZeroshotTraining
) -> tuple[TrainConfig, ZeroshotTraining]:
    """Fill what the user did not give from the preset."""
    hidden, epochs = PRESETS[config.preset]
    if "hidden" not in config.model_fields_set:
        config = config.model_copy(update={"hidden": hidden})
    if not {"epochs", "steps"} & training.model_fields_set:
        training = training.model_copy(update={"epochs": epochs})
    return config, training


def train(
    config: TrainConfig,
    training: ZeroshotTraining | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Fit a network to a classifier's rows; leaves `best.safetensors` in a run folder.

    With photos of seen classes the mixture of the ensemble is chosen on classes held out.
    Raises `DataError` for unusable files, `CheckpointError` for a classifier that does not fit.
    """
    progress = progress or Silent()
    config, training = resolve(config, training or ZeroshotTraining())
    if training.accumulate > 1 or training.limit:
        raise UsageError("--accumulate and --limit do not fit: every step sees all seen classes")
    runtime = start(run_options or RunOptions())
    if runtime.world_size > 1:
        raise UsageError(
            f"{runtime.world_size} processes: every step sees all seen classes, there is nothing "
            "to share out",
            "start it without torchrun",
        )
    run = Run.open(config.out, config.resume)
    graph = open_graph(config, progress)
    backbone = open_backbone(config, len(graph.seen))
    photos = open_photos(config.images, graph.taxonomy) if config.images is not None else None
    options = NetworkOptions(**config.model_dump(include=set(NetworkOptions.model_fields)))
    settings = run.record("train zeroshot", runtime, config, training)
    content = {"graph": config.graph, "config": config.to_dict(), "training": training.to_dict()}
    model = partial(Trained, run.best.name, graph, options=options, backbone=backbone)

    def keep(candidate: nn.Module, entry: dict[str, float]) -> None:
        assert isinstance(candidate, RowNetwork)
        metrics = {**content, "metrics": entry}
        save_model(run.best, model(network=candidate, mixture=Mixture(), content=metrics))

    network, fitted = fit_network(
        graph, backbone.targets, options, training, runtime,
        run=run, save_best=keep, progress=progress, title="fitting rows",
    )  # fmt: skip
    mixture, tuned = Mixture(), dict[str, float]()
    if photos is not None:
        mixture, tuned = _tune(graph, backbone, photos, options, training, runtime, progress)
    last = fitted.history[-1] if fitted.history else {}
    content["metrics"] = {**last, **tuned}
    trained = model(network=network, mixture=mixture, content=content)
    result = _summary(config, trained, fitted, tuned)
    if runtime.is_main:
        save_model(run.best, trained)
        write_report(
            run.folder / "report.html",
            f"mlkit train zeroshot: {config.variant}",
            result,
            settings=settings,
            command=command,
            history=fitted.history,
        )
    return result


def _tune(
    graph: Graph,
    backbone: Backbone,
    photos: Photos,
    options: NetworkOptions,
    training: TrainOptions,
    runtime: Runtime,
    progress: Progress,
) -> tuple[Mixture, dict[str, float]]:
    """Choose the mixture with a second network, fitted as the first one to fewer classes."""
    engine = {"progress": progress, "title": "held-out classes"}

    def refit(part: Graph, targets: Tensor) -> RowNetwork:
        return fit_network(part, targets, options, training, runtime, **engine)[0]

    return tune(graph, backbone, photos, options, refit, runtime, progress)


def _summary(
    config: TrainConfig, trained: Trained, fitted: Fitted, tuned: dict[str, float]
) -> Result:
    folder = config.resume or config.out
    graph, targets, mixture = trained.graph, trained.targets, trained.mixture
    vectors = graph.vectors[torch.from_numpy(graph.seen)]
    above = ancestor_rows(graph.pairs, graph.seen, targets, _parents(graph))
    rows = {
        config.variant: trained.predict(graph.seen),
        "ridge": ridge_rows(vectors, targets, vectors),
        "mean below the parent": above,
    }
    cosines = {name: float((found * targets).sum(1).mean()) for name, found in rows.items()}
    metrics: dict[str, Any] = {
        "steps": fitted.steps,
        "loss": 1 - cosines[config.variant],
        "nodes": len(graph.taxonomy),
        "attention": trained.network.shares(),
        "mixture": vars(mixture),
        **tuned,
    }
    table = Table(
        "Rows of the seen classes",
        ("predicted by", "cosine with the true rows"),
        [(name, f"{value:.3f}") for name, value in cosines.items()],
    )
    weights = ", ".join(f"{name} {value:.2f}" for name, value in mixture.weights.items())
    said = "chosen on held-out classes" if mixture.tuned else "equal; --images DIR chooses them"
    return Result(
        inputs={"graph": config.graph, "seen": len(graph.seen), "nodes": len(graph.taxonomy)},
        outputs={"run": str(folder), "weights": str(folder / "best.safetensors")},
        metrics=metrics,
        tables=(table,),
        notes=(
            f"ensemble: {weights} ({said})",
            f"Next: mlkit zeroshot photo.jpg --weights {folder}/best.safetensors --classes FILE",
        ),
    )


def _parents(graph: Graph) -> Any:
    """Return the first parent of each seen class, itself where it has none."""
    parent = np.arange(len(graph.taxonomy))
    edges = graph.taxonomy.edges[::-1]
    parent[edges[:, 0]] = edges[:, 1]
    return parent[graph.seen]
