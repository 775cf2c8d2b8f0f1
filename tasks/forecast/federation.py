"""`mlkit federate serve` and `join`: one training over machines that keep their data."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from ...core.errors import DataError, UsageError
from ...core.files import check_writable, write_text
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.report import write_report
from ...core.results import Result, Table
from ...core.training import Run
from .adjacency import read_graph
from .apply import forecast_text
from .config import (
    FederationOptions,
    JoinConfig,
    ModelOptions,
    RoundOptions,
    ServeConfig,
    WindowOptions,
)
from .coordinator import Coordinator
from .data import Series
from .errors import error_table, scores
from .fit import cost_table, fit, part_of
from .join import join
from .network import open_series, start_exact
from .node import NodeGroup
from .remote import GrpcTransport
from .wire import Message

AHEAD = 10_000  # steps behind the end whose time of day a joiner can name: the longest horizon


def serve(
    config: ServeConfig,
    options: RoundOptions | None = None,
    federation: FederationOptions | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Coordinate a federation until its rounds are over; leaves a run folder.

    Raises `UsageError` when the address is taken, `DataError` when too few nodes come.
    """
    progress = progress or Silent()
    options, federation = options or RoundOptions(), federation or FederationOptions()
    runtime = start_exact(run_options)
    run = Run.open(config.out, config.resume)
    names = _node_names(config.nodes)
    graph = read_graph(config.graph, names, config.graph_kind, progress.info)
    tls = None
    if not config.insecure:
        assert config.cert is not None
        assert config.key is not None
        tls = _read(config.cert), _read(config.key)
    model, windows = part_of(config, ModelOptions), part_of(config, WindowOptions)
    settings = run.record("federate serve", runtime, config, options, federation)
    weights = run.best
    transport = GrpcTransport(
        names, token=_token(config.token_file), address=config.address, tls=tls,
        deadline_s=config.deadline, say=progress.warn,
    )  # fmt: skip
    with transport:
        progress.warn(f"listening on {config.address}, port {transport.port}")
        _wait(transport, config.least or len(names), config.wait, progress)
        engine = Coordinator(transport, graph, model, windows, options, federation, runtime.seed)
        content: dict[str, Any] = {"seed": runtime.seed, "training": options.to_dict()}
        _, fitted, personal = fit(engine, graph, windows, content, run, weights, progress)
        arms: dict[str, Any] = {model.method: engine.evaluate("valid")}
        if personal is not None:
            arms = {model.method: personal["before"].cpu(), "personalised": personal["after"].cpu()}
        engine.finish()
        transport.dismiss()
    costs, cost = cost_table(engine, fitted.history[-1])
    result = Result(
        inputs={"graph": str(config.graph), "nodes": len(names), "edges": len(graph)},
        outputs={"run": str(run.folder), "weights": str(weights)},
        metrics={
            "rounds": fitted.steps,
            "best_round": fitted.best_step,
            "validation": {name: scores(sums) for name, sums in arms.items()},
            "cost": cost,
        },
        tables=(error_table("Validation errors, by the nodes themselves", arms), costs),
        notes=(f"best of {fitted.steps} rounds at {fitted.best_step}",),
    )
    write_report(
        run.folder / "report.html", f"mlkit federate: {model.method}", result,
        settings=settings, command=command, history=fitted.history,
    )  # fmt: skip
    return result


def _wait(transport: GrpcTransport, least: int, seconds: float, progress: Progress) -> None:
    shown = 0
    with progress.task("waiting for nodes", least) as task:

        def tick(there: int) -> None:
            nonlocal shown
            task.advance(there - shown)
            shown = there

        transport.wait(least, seconds, tick)


def _node_names(path: Path) -> list[str]:
    text = _read(path).decode(errors="replace").replace(",", "\n")
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path} holds no ids", "write one per line")
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise DataError(f"{path}: node '{twins[0]}' stands twice")
    return names


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _token(path: Path) -> str:
    token = _read(path).decode(errors="replace").strip()
    if len(token) < 8:
        raise DataError(
            f"{path} holds a token of {len(token)} characters; at least 8 are needed",
            "make one: python -c 'import secrets; print(secrets.token_urlsafe())'",
        )
    if not token.isascii():
        raise DataError(f"{path}: a token must be ASCII")
    return token


def join_federation(
    config: JoinConfig,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
) -> Result:
    """Take part in a federation with the series of a file until it ends.

    Raises `UsageError` when the coordinator refuses the token or a node, `DataError` when it
    cannot be reached.
    """
    progress = progress or Silent()
    if config.out is not None:
        check_writable(config.out, config.overwrite)
    runtime = start_exact(run_options)
    series = open_series(config.data, config, progress)
    if config.node:
        series = _some(series, config)
    longer = series.extended(AHEAD)
    group = NodeGroup(
        series.names, series.values.to(runtime.device), longer.times.to(runtime.device),
        secret=secrets.randbits(62),
    )  # fmt: skip
    certificate = None if config.insecure or config.ca is None else _read(config.ca)
    counts: dict[str, int] = {}
    with progress.task("serving", None) as task:

        def heard(message: Message) -> None:
            counts[message.kind] = counts.get(message.kind, 0) + 1
            task.advance(1, message.kind)

        join(
            group, config.address, _token(config.token_file), certificate=certificate,
            patience_s=config.patience, say=progress.info, heard=heard,
        )  # fmt: skip
    outputs = {}
    if config.out is not None and group.newest is not None:
        write_text(config.out, forecast_text(series, group.newest.cpu()))
        outputs["forecast"] = str(config.out)
    rows = [(kind, str(count)) for kind, count in counts.items()]
    return Result(
        inputs={"data": str(config.data), "nodes": list(series.names)},
        outputs=outputs,
        metrics={"commands": counts},
        tables=(Table("Commands answered", ("command", "times"), rows),),
    )


def _some(series: Series, config: JoinConfig) -> Series:
    unknown = [name for name in config.node if name not in series.names]
    if unknown:
        raise UsageError(
            f"--node {unknown[0]}: {series.name} has no such sensor",
            f"it has: {', '.join(series.names[:8])}",
        )
    return series.take([series.names.index(name) for name in config.node])
