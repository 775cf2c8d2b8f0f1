"""Configurations: frozen pydantic models, the one declaration of every option.

A field of a `Config` is a command-line option, a TOML key, a JSON key and a Python argument at
once. `Annotated[float, Flag("--lr"), Field(gt=0, description="...")]` says all there is to say;
a field without a `Flag` gets its name as the flag.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import DataError, UsageError


@dataclass(frozen=True)
class Flag:
    """How a field looks on the command line."""

    names: tuple[str, ...] = ()
    panel: str = "Options"
    metavar: str | None = None
    env: str | None = None
    argument: bool = False
    secret: bool = False  # understood, but not shown in --help

    def __init__(
        self,
        *names: str,
        panel: str = "Options",
        metavar: str | None = None,
        env: str | None = None,
        argument: bool = False,
        secret: bool = False,
    ) -> None:
        for key, value in {
            "names": names,
            "panel": panel,
            "metavar": metavar,
            "env": env,
            "argument": argument,
            "secret": secret,
        }.items():
            object.__setattr__(self, key, value)


TUNING = "Tuning"


class Config(BaseModel):
    """Base of all configurations: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init_subclass__(cls, *, defaults: Mapping[str, Any] | None = None, **rest: Any) -> None:
        """Leave `defaults` to the method below: the fields do not exist yet."""
        super().__init_subclass__(**rest)

    @classmethod
    def __pydantic_init_subclass__(
        cls, *, defaults: Mapping[str, Any] | None = None, **rest: Any
    ) -> None:
        """Let a class inherit options with other defaults: `class B(A, defaults={"lr": 1e-3})`."""
        super().__pydantic_init_subclass__(**rest)
        for name, value in (defaults or {}).items():
            cls.model_fields[name].default = value
        if defaults:
            cls.model_rebuild(force=True)

    @classmethod
    def create(cls, **values: Any) -> Self:
        """Validate `values`; what is wrong with them becomes a `UsageError` of one line."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise UsageError(*_explain(cls, error)) from error

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return self.model_dump(mode="json")


def flag_of(config: type[Config], field: str) -> Flag:
    """Return the `Flag` of a field, with its option names filled in."""
    info = config.model_fields[field]
    flag = next((item for item in info.metadata if isinstance(item, Flag)), Flag())
    names = flag.names or ("--" + field.replace("_", "-"),)
    return Flag(
        *names,
        panel=flag.panel,
        metavar=flag.metavar,
        env=flag.env,
        argument=flag.argument,
        secret=flag.secret,
    )


def _explain(config: type[Config], error: ValidationError) -> tuple[str, str]:
    """Turn pydantic's report into (message, hint), naming options as the user typed them."""
    lines = []
    for item in error.errors():
        field = str(item["loc"][0]) if item["loc"] else ""
        reason = item["msg"].removeprefix("Value error, ")
        reason = "missing" if item["type"] == "missing" else reason
        if field not in config.model_fields:
            lines.append(f"{field}: {reason}" if field else reason)
            continue
        flag = flag_of(config, field)
        name = field.upper() if flag.argument else flag.names[0].split("/")[0]
        given = "" if item["type"] == "missing" else f" {item['input']}"
        lines.append(f"{name}{given}: {reason[:1].lower()}{reason[1:]}")
    return "; ".join(lines), "see --help for the values that are allowed"


def read_toml(path: str | Path, table: str) -> dict[str, Any]:
    """Return the options of one command from a TOML file.

    The file may hold the options at the top level, or in tables named like commands
    (`[prune]`, `[train.prune]`); a table that exists wins.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "check --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid TOML: {error}", "check --config") from error
    found: Any = document
    for part in table.split():
        found = found.get(part) if isinstance(found, Mapping) else None
    values = found if isinstance(found, Mapping) else document
    return {key.replace("-", "_"): value for key, value in values.items()}


def to_toml(table: str, values: Mapping[str, Any]) -> str:
    """Return `values` as a TOML table that `read_toml` understands; None is left out."""
    import json

    lines = [f"[{table.replace(' ', '.')}]"]
    for key, value in values.items():
        if value is not None:
            # JSON strings, numbers, booleans and lists are also valid TOML values.
            lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"
