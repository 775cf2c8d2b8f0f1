"""Configurations become command-line options: each field of a `Config` is one option.

A command is a plain function whose parameters are configurations. `configured` spreads their
fields into typer options, gathers what the user gave (flag > environment > --config file > the
run that is resumed > default), validates it, and calls the function with the models.
"""

from __future__ import annotations

import difflib
import inspect
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import Field
from pydantic_core import PydanticUndefined

from ..core.config import TUNING, Config, Flag, flag_of, read_toml
from ..core.errors import UsageError
from ..core.options import MODEL, OUTPUT, RUN, TRAINING
from .output import Session


class OutputOptions(Config):
    """Options of every command: what is printed, and where settings come from."""

    json_output: Annotated[
        bool, Flag("--json", panel=OUTPUT), Field(description="Print one JSON document.")
    ] = False
    quiet: Annotated[
        bool, Flag("--quiet", "-q", panel=OUTPUT), Field(description="No progress, no notes.")
    ] = False
    verbose: Annotated[
        bool, Flag("--verbose", "-v", panel=OUTPUT), Field(description="Say more on stderr.")
    ] = False
    config: Annotated[
        Path | None,
        Flag("--config", panel=OUTPUT, metavar="FILE.toml"),
        Field(description="Read options from a TOML file; flags win over it."),
    ] = None


def configured(function: Callable[..., None], name: str) -> Callable[..., None]:
    """Return a function for typer whose parameters are the fields of `function`'s configurations.

    `function(session, **configs)` gets a `Session` first. It is called like its command: `name`,
    behind the group's name, with `_` for `-` (`train_prune`, `data_synthetic_images`).
    """
    group = function.__name__.rstrip("_").removesuffix(name.replace("-", "_"))
    command = f"{group.replace('_', ' ')}{name}"
    signature = inspect.signature(function, eval_str=True)
    configs: dict[str, type[Config]] = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if inspect.isclass(parameter.annotation) and issubclass(parameter.annotation, Config)
    }
    every: dict[str, type[Config]] = {**configs, "_output": OutputOptions}
    parameters = [_parameter(model, field) for model, field in _fields(every)]

    def wrapper(**given: Any) -> None:
        explicit = {key: value for key, value in given.items() if value not in (None, [], ())}
        output = OutputOptions.create(**_pick(OutputOptions, explicit))
        session = Session(
            command, output.json_output, output.quiet, output.verbose, _command_line(command)
        )
        with session:
            if explicit.get("out") == "-":
                session.check_stream()
            stored = _stored(command, explicit, output.config, given, session)
            values = {**stored, **explicit}
            models = {name: model.create(**_pick(model, values)) for name, model in configs.items()}
            function(session, **models)

    # typer reads the signature and the doc string; it never sees the configurations.
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    wrapper.__doc__ = function.__doc__
    wrapper.__name__ = function.__name__
    return wrapper


def _command_line(command: str) -> str:
    return shlex.join(["mlkit", *(sys.argv[1:] or command.split())])


def _fields(configs: Mapping[str, type[Config]]) -> list[tuple[type[Config], str]]:
    """List all fields: arguments first, then plain options, then the panels."""
    order = {"Options": 0, MODEL: 1, TRAINING: 2, RUN: 3, OUTPUT: 4, TUNING: 5}
    fields: dict[str, tuple[type[Config], str]] = {}
    for model in configs.values():
        for field in model.model_fields:
            fields.setdefault(field, (model, field))

    def rank(item: tuple[type[Config], str]) -> tuple[bool, int]:
        flag = flag_of(*item)
        return not flag.argument, order.get(flag.panel, 9)

    return sorted(fields.values(), key=rank)


def _parameter(model: type[Config], field: str) -> inspect.Parameter:
    """Turn one field into a typer parameter."""
    info, flag = model.model_fields[field], flag_of(model, field)
    kind, multiple = _command_line_type(info.annotation)
    settings: dict[str, Any] = {
        "help": f"{info.description}{_default_text(info.default, flag)}",
        "rich_help_panel": flag.panel,
        "show_default": False,  # typer's own default is None: not given
    }
    if flag.metavar:
        settings["metavar"] = flag.metavar
    if flag.argument:
        del settings["rich_help_panel"]
        marker: Any = typer.Argument(**settings)
    else:
        names = list(flag.names)
        if kind is bool:
            settings["metavar"] = ""
        marker = typer.Option(*names, envvar=flag.env, show_envvar=bool(flag.env), **settings)
    annotation: Any = list[kind] | None if multiple else kind | None  # type: ignore[valid-type]
    return inspect.Parameter(
        field,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[annotation, marker],
    )


def _default_text(default: Any, flag: Flag) -> str:
    if default is PydanticUndefined or default is None or default == () or default is False:
        return ""
    if default is True:
        return f" [default: {flag.names[0].split('/')[0]}]"
    return f" [default: {default}]"


def _command_line_type(annotation: Any) -> tuple[Any, bool]:
    """Return (type for typer, takes several values) of a field's annotation.

    Paths stay text: `-` is none, and our own messages say what is wrong with a file.
    """
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        kinds = [arg for arg in get_args(annotation) if arg is not type(None)]
        return _command_line_type(kinds[0])
    if origin is tuple:
        inner, _ = _command_line_type(get_args(annotation)[0])
        # typer knows no lists of literals; the configuration checks the words.
        return (str if get_origin(inner) is Literal else inner), True
    if origin is Literal:
        return annotation, False
    return (str if annotation is Path else annotation), False


def _pick(model: type[Config], values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in model.model_fields}


def _stored(
    command: str,
    explicit: Mapping[str, Any],
    file: Path | None,
    known: Iterable[str],
    session: Session,
) -> dict[str, Any]:
    """Return the options of the run that is resumed, under those of the --config file."""
    values: dict[str, Any] = {}
    if "resume" in explicit:
        path = Path(explicit["resume"]) / "run.toml"
        if path.exists():
            values = read_toml(path, command)
            for key, value in explicit.items():
                if key in values and str(values[key]) != str(value):
                    session.info(f"changed: {key.replace('_', '-')} {values[key]} -> {value}")
            values.pop("device", None)  # another machine may have another one
    if file is not None:
        read = read_toml(file, command)
        for key in read:
            if key not in known:
                close = difflib.get_close_matches(key, list(known), 1)
                hint = f"did you mean {close[0]}?" if close else f"see 'mlkit {command} --help'"
                raise UsageError(f"{file}: 'mlkit {command}' has no option {key}", hint)
        values.update(read)
    return values
