"""Training: from series and a graph to a trained network, with its errors and its costs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from ...core.config import Config
from ...core.errors import UsageError
from ...core.files import sha256
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.report import write_report
from ...core.results import Result, Table, human_bytes, human_count
from ...core.runtime import Runtime, memory_errors
from ...core.training import Fitted, Run
from .adjacency import read_places
from .checkpoint import Trained, save_trained
from .config import FederationOptions, ModelOptions, RoundOptions, TrainConfig, WindowOptions
from .coordinator import GRAPHED, Coordinator
from .cost import Sizes, bytes_per_round, device_flops, server_flops
from .data import Series
from .errors import error_table, naive_sums, scores
from .graph import Graph
from .joint import ENGINES
from .network import open_graph, open_series, start_exact, western
from .node import NodeGroup
from .predictor import Predictor
from .rounds import run_rounds
from .sums import error_sums
from .transport import LocalTransport
from .windows import split_starts

Options = TypeVar("Options", bound=Config)
QUICK: dict[str, Any] = {
    "hidden": 32, "server_hidden": 64, "server_size": 32, "rounds": 12, "lr": 3e-3,
    "teacher": 0.0, "batch_size": 64, "personalise": 8, "personal_lr": 1e-3,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "quick": QUICK,
    "standard": {"hidden": 32, "server_hidden": 64, "server_size": 32, "lr": 3e-3, "teacher": 0.0,
                 "batch_size": 64},
    "paper": {"rounds": 500, "patience": 20},
}  # fmt: skip
QUICK_WINDOWS = 1000  # training windows of the quick preset, at most


def resolve(options: Options, preset: str) -> Options:
    """Fill what the user did not give from the preset."""
    fields = type(options).model_fields
    given = options.model_fields_set
    values = {k: v for k, v in PRESETS[preset].items() if k in fields and k not in given}
    return options.model_copy(update=values)


def thin(windows: WindowOptions, length: int, preset: str) -> WindowOptions:
    """Take every k-th window where the quick preset would have more than it needs."""
    if preset != "quick":
        return windows
    stride = max(1, round(0.7 * length / QUICK_WINDOWS))
    values = {"stride": stride, "eval_stride": max(1, stride // 2)}
    values = {k: v for k, v in values.items() if k not in windows.model_fields_set}
    return windows.model_copy(update=values)


def part_of(config: Config, kind: type[Options]) -> Options:
    """Return the options of `config` that `kind` declares; what was not given stays so."""
    given = config.model_fields_set & set(kind.model_fields)
    values = {name: getattr(config, name) for name in kind.model_fields}
    found = kind(**{name: values[name] for name in given})
    return found.model_copy(update={k: v for k, v in values.items() if k not in given})


def make_engine(
    series: Series,
    graph: Graph,
    model: ModelOptions,
    windows: WindowOptions,
    options: RoundOptions,
    federation: FederationOptions,
    runtime: Runtime,
) -> Coordinator:
    """Return the engine of a method with all nodes in this process."""
    values, times = series.values.to(runtime.device), series.times.to(runtime.device)
    transport = LocalTransport(NodeGroup(series.names, values, times))
    kind = ENGINES.get(model.method, Coordinator)
    return kind(transport, graph, model, windows, options, federation, runtime.seed)


def train(
    config: TrainConfig,
    options: RoundOptions | None = None,
    federation: FederationOptions | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Train on series and leave a run folder with `best.safetensors` in it.

    Raises `DataError` for series or graphs that cannot be used, `UsageError` for a folder that
    holds a run already.
    """
    progress = progress or Silent()
    begin = time.monotonic()
    federation = federation or FederationOptions()
    options = options or RoundOptions()
    if config.method == "dcrnn":
        options = _without_devices(options)
    runtime = start_exact(run_options)
    run = Run.open(config.out, config.resume)
    series = open_series(config.series, config, progress)
    config, options = resolve(config, config.preset), resolve(options, config.preset)
    windows = thin(part_of(config, WindowOptions), series.values.shape[1], config.preset)
    split_starts(
        series.values.shape[1], windows.history, windows.horizon, windows.stride,
        windows.eval_stride, series.name,
    )  # fmt: skip
    graph = open_graph(config, series, progress, config.method in GRAPHED)
    seen, inner = series, graph
    if config.inductive < 1:
        assert config.locations is not None
        chosen = western(read_places(config.locations, series.names)[1], config.inductive)
        seen, inner = series.take(chosen.tolist()), graph.induced(chosen)
        progress.info(f"training on {len(seen.names)} of {len(series.names)} sensors")
    settings = run.record("train forecast", runtime, config, windows, options, federation)
    model = part_of(config, ModelOptions)
    engine = make_engine(seen, inner, model, windows, options, federation, runtime)
    content = {
        "seed": runtime.seed,
        "training": options.to_dict(),
        "data": "" if str(config.series) == "-" else sha256(config.series),
        "step": series.step,
    }
    weights = run.best
    trained, fitted, personal = fit(engine, inner, windows, content, run, weights, progress)
    trained = with_errors(trained, seen, inner, runtime, progress)
    save_trained(weights, trained)
    result = _summary(
        config, seen, inner, trained, engine, fitted, personal, weights, runtime,
        time.monotonic() - begin,
    )  # fmt: skip
    write_report(
        run.folder / "report.html", f"mlkit train forecast: {model.method}", result,
        settings=settings, command=command, history=fitted.history,
    )  # fmt: skip
    return result


def _without_devices(options: RoundOptions) -> RoundOptions:
    if options.personalise:
        raise UsageError(
            "--personalise fine-tunes the models of devices; --method dcrnn has none",
            "leave one of the two out",
        )
    return options.model_copy(update={"personalise": 0})  # whatever the preset says


def fit(
    engine: Coordinator,
    graph: Graph,
    windows: WindowOptions,
    content: dict[str, Any],
    run: Run | None,
    path: Path | None,
    progress: Progress,
) -> tuple[Trained, Fitted, dict[str, Tensor] | None]:
    """Run the rounds, then the personalisation; the best weights so far are kept at `path`."""

    def gather(snapshot: dict[str, Tensor], metrics: dict[str, float]) -> Trained:
        return Trained(
            str(path or "a small model"), engine.model, windows, engine.federation,
            engine.transport.names, graph, engine.scaler, snapshot["device"].cpu(),
            {k[7:]: t.cpu() for k, t in snapshot.items() if k.startswith("server.")},
            {**content, "metrics": metrics},
        )  # fmt: skip

    def save_best(snapshot: dict[str, Tensor], entry: dict[str, float]) -> None:
        if path is not None:
            save_trained(path, gather(snapshot, entry))

    with memory_errors(f"try --batch-size {max(1, engine.options.batch_size // 2)}"):
        fitted = run_rounds(engine, run=run, save_best=save_best, progress=progress)
        trained = gather(engine.snapshot(), _best_entry(fitted))
        if not engine.options.personalise:
            return trained, fitted, None
        with progress.task("personalising", None):
            personal = engine.personalise(engine.options.personalise)
    own = engine.transport.group.personal if isinstance(engine.transport, LocalTransport) else None
    return trained.with_(personal=None if own is None else own.cpu()), fitted, personal


def _best_entry(fitted: Fitted) -> dict[str, float]:
    return next((e for e in fitted.history if e["step"] == fitted.best_step), {})


def with_errors(
    trained: Trained, series: Series, graph: Graph, runtime: Runtime, progress: Progress
) -> Trained:
    """Return the network with the quantiles of its validation errors."""
    starts = _starts(trained, series)["valid"]
    predictor = Predictor(trained, series, graph, runtime.device)
    return trained.with_(errors=predictor.error_quantiles(starts, progress))


def _starts(trained: Trained, series: Series) -> dict[Any, Tensor]:
    w = trained.windows
    length = series.values.shape[1]
    return split_starts(length, w.history, w.horizon, w.stride, w.eval_stride)


def cost_table(engine: Coordinator, entry: dict[str, float]) -> tuple[Table, dict[str, Any]]:
    """Return the traffic and the work of one round, measured and by formula."""
    sizes = Sizes(
        len(engine.transport.names), 1, len(engine.graph), engine.lengths["train"],
        engine.lengths["valid"],
    )  # fmt: skip
    separate = Sizes(sizes.nodes, sizes.nodes, sizes.edges, sizes.train, sizes.valid)
    method, epochs = engine.model.method, engine.options.server_epochs
    down, up = bytes_per_round(method, engine.settings, separate, epochs)
    device = device_flops(engine.settings)
    rows = [
        ("payload down / round, one process per node", human_bytes(down)),
        ("payload up / round", human_bytes(up)),
        ("of that measured here (down, up)", f"{entry['down_mb']:.3g} MB, {entry['up_mb']:.3g} MB"),
    ]
    metrics: dict[str, Any] = {"bytes_down_per_round": down, "bytes_up_per_round": up}
    if method == "dcrnn":
        weights = sum(p.numel() for p in engine.server.parameters())
        return Table(
            "Cost of a round", ("", "value"), [*rows, ("weights", f"{weights:,}")]
        ), metrics
    rows.append(("device, one window forwards", human_count(device, "FLOP")))
    rows.append(("weights of a device", f"{engine.net.size:,}"))
    metrics |= {"device_flops_per_window": device, "device_weights": engine.net.size}
    if engine.served:
        m = engine.model
        work = server_flops(
            engine.settings, sizes.nodes, sizes.edges, m.server_hidden, m.server_size
        )
        metrics["server_flops_per_window"] = work
        rows.append(("server, one window forwards", human_count(work, "FLOP")))
    spent = engine.spent()
    if spent is not None:
        metrics["epsilon"] = spent if spent != float("inf") else None
        rows.append(("epsilon of the averages (delta 1e-5)", f"{spent:.3g}"))
    return Table("Cost of a round", ("", "value"), rows), metrics


def _summary(
    config: TrainConfig,
    series: Series,
    graph: Graph,
    trained: Trained,
    engine: Coordinator,
    fitted: Fitted,
    personal: dict[str, Tensor] | None,
    weights: Path,
    runtime: Runtime,
    seconds: float,
) -> Result:
    starts = _starts(trained, series)
    predictor = Predictor(trained, series, graph, runtime.device)
    shared = Predictor(trained.with_(personal=None), series, graph, runtime.device)
    truth = predictor.truth(starts["valid"])
    arms: dict[str, Tensor] = {}
    arms[trained.model.method] = error_sums(shared.forecast(starts["valid"]), truth)
    if personal is not None:
        name = f"{trained.model.method}, personalised"
        arms[name] = error_sums(predictor.forecast(starts["valid"]), truth)
    arms |= naive_sums(series, starts, "valid", trained.windows)
    costs, cost = cost_table(engine, fitted.history[-1])
    metrics = {
        "rounds": fitted.steps,
        "best_round": fitted.best_step,
        "validation": {name: scores(sums) for name, sums in arms.items()},
        "cost": cost,
        "rejected": engine.rejected,
    }
    how = f"best of {fitted.steps} rounds at {fitted.best_step}, {seconds:.0f} s"
    masked = "gaps masked" if config.missing != "none" else "nothing masked"
    notes = [
        f"{how}; validation part, {masked}" + (", zeros too" if config.missing == "0" else ""),
        f"Next: mlkit eval forecast {config.series} --weights {weights}",
    ]
    return Result(
        inputs={"series": str(config.series), "sensors": len(series.names), "edges": len(graph)},
        outputs={"run": str(weights.parent), "weights": str(weights)},
        metrics=metrics,
        tables=(error_table("Validation errors", arms), costs),
        notes=tuple(notes),
    )
