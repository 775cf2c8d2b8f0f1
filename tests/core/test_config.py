from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from mlkit.core.config import Config, Flag, flag_of, read_toml, to_toml
from mlkit.core.errors import DataError, UsageError
from mlkit.core.options import TrainOptions


class Example(Config):
    rate: Annotated[float, Flag("--rate", "-r"), Field(gt=0, description="Rate.")] = 1.0
    batch_size: int = 4
    name: str


def test_create_explains_in_one_line_with_the_option_as_typed() -> None:
    with pytest.raises(UsageError, match=r"--rate -1: input should be greater than 0") as caught:
        Example.create(rate=-1, name="x")
    assert "\n" not in caught.value.message
    with pytest.raises(UsageError, match="--name: missing"):
        Example.create()
    with pytest.raises(UsageError, match="colour"):
        Example.create(name="x", colour="red")


def test_flags_default_to_the_field_name() -> None:
    assert flag_of(Example, "batch_size").names == ("--batch-size",)
    assert flag_of(Example, "rate").names == ("--rate", "-r")


def test_configurations_cannot_be_changed() -> None:
    example = Example(name="x")
    with pytest.raises(ValueError, match="frozen"):
        example.rate = 2.0  # type: ignore[misc]


def test_toml_round_trip(tmp_path: Path) -> None:
    values = {"rate": 0.5, "name": 'a "b"', "flags": ["x", "y"], "on": True, "nothing": None}
    path = tmp_path / "run.toml"
    path.write_text(to_toml("train prune", values))
    del values["nothing"]
    assert read_toml(path, "train prune") == values


def test_toml_at_the_top_level_and_with_dashes(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("batch-size = 3\n")
    assert read_toml(path, "prune") == {"batch_size": 3}


def test_broken_toml_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("rate = = 3")
    with pytest.raises(DataError, match=r"c\.toml is not valid TOML"):
        read_toml(path, "prune")
    with pytest.raises(DataError, match="cannot read"):
        read_toml(tmp_path / "none.toml", "prune")


def test_a_class_may_inherit_options_with_other_defaults() -> None:
    class Own(TrainOptions, defaults={"lr": 2e-3, "optimizer": "adamw"}):
        pass

    assert Own().lr == 2e-3
    assert Own().optimizer == "adamw"
    assert Own(lr=0.5).lr == 0.5
    assert TrainOptions().lr == 0.1
    assert flag_of(Own, "optimizer") == flag_of(TrainOptions, "optimizer")
    with pytest.raises(UsageError, match="--lr"):
        Own.create(lr=-1)
