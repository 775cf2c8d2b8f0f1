"""Commands that are not of one method: list, info, env, demo, export."""

from __future__ import annotations

import difflib
import json
from importlib import import_module
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..core.config import Config, Flag
from ..core.errors import InterruptedRun, MlkitError, UsageError
from ..core.options import OUTPUT, OverwriteOption, RunOptions
from ..core.results import Result, Table
from ..tasks import METHODS
from .output import Session

# Optional parts of the installation, and a module that tells whether each is there.
EXTRAS = {
    "coco": "pycocotools",
    "export": "onnx",
    "hdf5": "h5py",
    "federated": "grpc",
}


class ListConfig(Config):
    """Options of `mlkit list`."""

    models: Annotated[
        bool, Flag("--models"), Field(description="List the models that prune can open by name.")
    ] = False


def list_(session: Session, config: ListConfig) -> None:
    """Show the methods: what each reads and writes.

    Examples:

    `mlkit list`

    `mlkit list --models --json`
    """
    if config.models:
        names = import_module("mlkit.core.zoo").available()
        table = Table("Models", ("name",), [(name,) for name in names])
        session.finish(Result(metrics={"models": names}, tables=(table,)))
        return
    rows = [(m.name, m.summary, m.reads, m.writes) for m in METHODS]
    table = Table("Methods", ("method", "does", "reads", "writes"), rows)
    metrics = {"methods": [method._asdict() for method in METHODS]}
    session.finish(Result(metrics=metrics, tables=(table,)))


class InfoConfig(Config):
    """Options of `mlkit info`."""

    file: Annotated[
        Path, Flag(argument=True, metavar="FILE"), Field(description="A .safetensors checkpoint.")
    ]


def info(session: Session, config: InfoConfig) -> None:
    """Tell what a checkpoint is: method, settings, scores, versions, checksum.

    Examples:

    `mlkit info pruned.safetensors`

    `mlkit info runs/photos/best.safetensors --json | jq .metrics.content.metrics`
    """
    from ..core.checkpoint import read_metadata
    from ..core.files import sha256

    metadata = read_metadata(config.file)
    size = config.file.stat().st_size
    rows = [
        ("method", metadata.method),
        ("kind", metadata.kind),
        ("bytes", f"{size:,}"),
        ("sha256", sha256(config.file)),
    ]
    rows += [(f"version of {name}", value) for name, value in sorted(metadata.versions.items())]
    for part in ("recipe", "metrics", "config", "training"):
        values = metadata.content.get(part, {})
        rows += [(f"{part}.{key}", json.dumps(value)) for key, value in values.items()]
    metrics = {
        "method": metadata.method,
        "kind": metadata.kind,
        "bytes": size,
        "sha256": rows[3][1],
        "content": metadata.content,
        "written with": metadata.versions,
    }
    table = Table(str(config.file), ("", "value"), rows)
    session.finish(Result(inputs={"file": str(config.file)}, metrics=metrics, tables=(table,)))


class EnvConfig(Config):
    """`mlkit env` has no options of its own."""


def env(session: Session, config: EnvConfig) -> None:
    """Show versions, devices, and which optional packages are installed.

    Examples:

    `mlkit env`

    `mlkit env --json`
    """
    import os
    from importlib.util import find_spec

    import torch

    from ..core.results import versions

    devices = [f"cpu ({os.cpu_count()} cores, {torch.get_num_threads()} threads)"]
    devices += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    present = {name: find_spec(module) is not None for name, module in EXTRAS.items()}
    rows = [*versions().items(), ("devices", ", ".join(devices))]
    rows += [
        (f"extra '{name}'", "installed" if there else f"pip install '.[{name}]'")
        for name, there in present.items()
    ]
    metrics = {"versions": versions(), "devices": devices, "extras": present}
    session.finish(Result(metrics=metrics, tables=(Table("Environment", ("", "value"), rows),)))


class DemoConfig(OverwriteOption):
    """Options of `mlkit demo`."""

    method: Annotated[
        str | None,
        Flag(argument=True, metavar="[METHOD]"),
        Field(description="Which method; without it all of them, one after the other."),
    ] = None
    out: Annotated[
        Path, Flag("--out", "-o", panel=OUTPUT, metavar="DIR"), Field(description="Where to.")
    ] = Path("mlkit-demo")


def demo(session: Session, config: DemoConfig, run: RunOptions) -> None:
    """Run a method end to end on embedded data, and leave a report with pictures.

    Without METHOD all of them run, for some minutes, and share one page: index.html.

    Examples:

    `mlkit demo`

    `mlkit demo prune -o /tmp/demo`
    """
    packages = {method.name: method.package for method in METHODS}
    if config.method is not None and config.method not in packages:
        close = difflib.get_close_matches(config.method, packages, 1) or packages
        raise UsageError(f"no method '{config.method}'", f"try: {', '.join(close)}")
    if config.method is not None:
        package = packages[config.method]
        session.finish(_demo_of_one(package, config.out, session, config, run))
        return
    session.finish(_demo_of_all(packages, session, config, run))


def _demo_of_one(
    package: str, out: Path, session: Session, config: DemoConfig, run: RunOptions
) -> Result:
    from ..core.files import check_writable

    check_writable(out / "report.html", config.overwrite)
    result: Result = import_module(f"mlkit.tasks.{package}").demo(
        out, config.overwrite, run, session
    )
    return result


def _demo_of_all(
    packages: dict[str, str], session: Session, config: DemoConfig, run: RunOptions
) -> Result:
    """Run every demo, and join their reports; one that fails does not keep the others away."""
    from ..core.report import join_reports

    results, failures = {}, {}
    for name, package in packages.items():
        try:
            results[name] = _demo_of_one(package, config.out / name, session, config, run)
        except InterruptedRun:
            raise
        except MlkitError as error:
            failures[name] = error.message
    page = config.out / "index.html"
    reports = {name: config.out / name / "report.html" for name in results}
    join_reports(page, "mlkit demo", reports)
    return Result(
        outputs={"report": str(page), **{name: str(config.out / name) for name in results}},
        metrics={name: result.metrics for name, result in results.items()},
        tables=tuple(table for result in results.values() for table in result.tables),
        failures=failures,
    )


class ExportConfig(OverwriteOption):
    """Options of `mlkit export`."""

    file: Annotated[
        Path, Flag(argument=True, metavar="FILE"), Field(description="A checkpoint with a model.")
    ]
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE"),
        Field(description="Where to write; .onnx or .pt2 decides the format."),
    ] = Path("model.onnx")
    factory: Annotated[
        str | None,
        Flag("--factory", metavar="PKG.MODULE:FUNCTION"),
        Field(description="Your own function that builds the model, where one did."),
    ] = None


def export(session: Session, config: ExportConfig) -> None:
    """Write a model as ONNX or as a torch.export program, and check that it still agrees.

    Examples:

    `mlkit export pruned.safetensors -o pruned.onnx`

    `mlkit export pruned.safetensors -o pruned.pt2`
    """
    from ..core.checkpoint import read_metadata

    metadata = read_metadata(config.file)
    if metadata.kind != "model":
        raise UsageError(f"{config.file} holds a '{metadata.kind}', not a model")
    if config.out.suffix not in (".onnx", ".pt2"):
        raise UsageError(f"--out {config.out}: must end in .onnx or .pt2")
    packages = {method.name: method.package for method in METHODS}
    if metadata.method not in packages:
        raise UsageError(f"{config.file} belongs to '{metadata.method}', unknown to this mlkit")
    method = import_module(f"mlkit.tasks.{packages[metadata.method]}")
    session.finish(method.export(config.file, config.out, config.overwrite, config.factory))
