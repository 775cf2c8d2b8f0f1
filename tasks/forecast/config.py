"""The options of `forecast`: one declaration for the command line, TOML, JSON and Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ...core.config import TUNING, Config, Flag
from ...core.options import MODEL, OUTPUT, TRAINING, OverwriteOption, ResumeOption

DATA = "Data"
PRIVACY = "Privacy and robustness"

Method = Literal[
    "cnfgnn", "fedavg", "fmtl", "local", "at", "split", "central", "central-gn"
]  # fmt: skip
Missing = Literal["nan", "0", "none"]


class SeriesOptions(Config):
    """How a file of series is to be read."""

    transpose: Annotated[
        bool, Flag("--transpose", panel=DATA), Field(description="Rows are sensors, not steps.")
    ] = False
    missing: Annotated[
        Missing,
        Flag("--missing", panel=DATA),
        Field(
            description="What counts as not measured: empty cells (nan), zeros too (0), or "
            "nothing (none, as the authors' evaluation has it)."
        ),
    ] = "nan"
    day_steps: Annotated[
        int,
        Flag("--day-steps", panel=DATA),
        Field(ge=0, description="Steps per day where the file has no times; 0: 288 (5 minutes)."),
    ] = 0


class GraphOptions(Config):
    """Where the graph comes from."""

    graph: Annotated[
        Path | None,
        Flag("--graph", "-g", metavar="FILE"),
        Field(description="Distances or weights: a matrix, a list from,to,distance, a pickle."),
    ] = None
    locations: Annotated[
        Path | None,
        Flag("--locations", metavar="FILE"),
        Field(description="Sensor places (id, latitude, longitude): a graph where none is given."),
    ] = None
    graph_kind: Annotated[
        Literal["auto", "distances", "weights"],
        Flag("--graph-kind", panel=DATA),
        Field(description="What the numbers are; auto: weights if none exceeds 1."),
    ] = "auto"


class WindowOptions(Config):
    """What a window is."""

    history: Annotated[
        int, Flag("--history", panel=MODEL), Field(ge=1, le=10_000, description="Input steps.")
    ] = 12
    horizon: Annotated[
        int, Flag("--horizon", panel=MODEL), Field(ge=1, le=10_000, description="Output steps.")
    ] = 12
    stride: Annotated[
        int, Flag(panel=TUNING), Field(ge=1, description="Use every k-th training window.")
    ] = 1
    eval_stride: Annotated[
        int,
        Flag("--eval-stride", panel=TUNING),
        Field(ge=1, description="Use every k-th window of validation and test."),
    ] = 1


class ModelOptions(Config):
    """The networks."""

    method: Annotated[
        Method,
        Flag("--method", panel=MODEL),
        Field(
            description="CNFGNN; federated without a server model (fedavg, fmtl); one model per "
            "node (local); ablations (at, split); everything in one place (central, central-gn)."
        ),
    ] = "cnfgnn"
    hidden: Annotated[
        int, Flag("--hidden", panel=MODEL), Field(ge=1, le=4096, description="Units of the GRU.")
    ] = 64
    layers: Annotated[
        int, Flag("--layers", panel=TUNING), Field(ge=1, le=8, description="Layers of the GRU.")
    ] = 1
    server_hidden: Annotated[
        int,
        Flag("--server-hidden", panel=TUNING),
        Field(ge=1, le=4096, description="Hidden units of the graph network."),
    ] = 256
    server_size: Annotated[
        int,
        Flag("--server-size", panel=TUNING),
        Field(ge=1, le=4096, description="Size of updated edges, nodes and global feature."),
    ] = 128
    global_agg: Annotated[
        Literal["sum", "mean", "none"],
        Flag("--global-agg", panel=TUNING),
        Field(
            description="How the graph's global feature pools; sum (the paper) depends on the "
            "number of nodes."
        ),
    ] = "sum"


class RoundOptions(Config):
    """How long and how fast is trained."""

    rounds: Annotated[
        int, Flag("--rounds", panel=TRAINING), Field(ge=1, description="Most rounds.")
    ] = 30
    local_epochs: Annotated[
        int,
        Flag("--local-epochs", panel=TRAINING),
        Field(ge=1, description="Epochs of the nodes per round (R_c)."),
    ] = 1
    server_epochs: Annotated[
        int,
        Flag("--server-epochs", panel=TRAINING),
        Field(ge=0, description="Epochs of the graph network per round (R_s)."),
    ] = 1
    batch_size: Annotated[
        int, Flag(panel=TRAINING), Field(gt=0, description="Windows per step of a node.")
    ] = 128
    server_batch: Annotated[
        int, Flag("--server-batch", panel=TUNING), Field(gt=0, description="Windows per step there.")
    ] = 48
    lr: Annotated[float, Flag(panel=TRAINING), Field(gt=0, description="Learning rate.")] = 1e-3
    server_lr: Annotated[
        float,
        Flag("--server-lr", panel=TUNING),
        Field(ge=0, description="Learning rate of the graph network; 0: that of the nodes."),
    ] = 0.0
    teacher: Annotated[
        float,
        Flag("--teacher", panel=TUNING, metavar="TAU"),
        Field(ge=0, description="Steps over which teacher forcing fades (tau); 0: none."),
    ] = 1000.0
    patience: Annotated[
        int,
        Flag(panel=TRAINING),
        Field(ge=0, description="Stop after this many rounds without a better one; 0: never."),
    ] = 20
    personalise: Annotated[
        int,
        Flag("--personalise", panel=TRAINING, metavar="EPOCHS"),
        Field(ge=0, description="Afterwards each node fine-tunes its own copy; 0: not."),
    ] = 0
    personal_lr: Annotated[
        float,
        Flag("--personal-lr", panel=TUNING),
        Field(ge=0, description="Learning rate of the fine-tuning; 0: that of the nodes."),
    ] = 0.0


class FederationOptions(Config):
    """What protects the nodes and the average."""

    aggregate: Annotated[
        Literal["mean", "median", "trimmed"],
        Flag("--aggregate", panel=PRIVACY),
        Field(description="Average of the nodes' weights; trimmed: without 10 % at either end."),
    ] = "mean"
    participation: Annotated[
        float,
        Flag("--participation", panel=PRIVACY),
        Field(gt=0, le=1, description="Chance that a node trains in a round."),
    ] = 1.0
    dp_clip: Annotated[
        float,
        Flag("--dp-clip", panel=PRIVACY),
        Field(ge=0, description="Clip each node's update to this norm (node-level privacy)."),
    ] = 0.0
    dp_noise: Annotated[
        float,
        Flag("--dp-noise", panel=PRIVACY),
        Field(ge=0, description="Noise on the sum of updates, in units of --dp-clip."),
    ] = 0.0
    encoding_clip: Annotated[
        float,
        Flag("--encoding-clip", panel=PRIVACY),
        Field(ge=0, description="Clip each uploaded encoding to this norm."),
    ] = 0.0
    encoding_noise: Annotated[
        float,
        Flag("--encoding-noise", panel=PRIVACY),
        Field(ge=0, description="Noise on uploaded encodings, in units of --encoding-clip."),
    ] = 0.0
    reject_above: Annotated[
        float,
        Flag("--reject-above", panel=PRIVACY),
        Field(ge=0, description="Refuse updates this many times larger than the median; 0: none."),
    ] = 10.0

    @model_validator(mode="after")
    def _needs_a_clip(self) -> Self:
        if self.dp_noise and not self.dp_clip:
            raise ValueError("--dp-noise needs --dp-clip")
        if self.encoding_noise and not self.encoding_clip:
            raise ValueError("--encoding-noise needs --encoding-clip")
        if self.dp_clip and self.aggregate != "mean":
            raise ValueError("--dp-clip works with --aggregate mean alone")
        return self
