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
    "cnfgnn", "fedavg", "fmtl", "local", "at", "split", "central", "central-gn", "dcrnn"
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
            "node (local); ablations (at, split); everything in one place (central, "
            "central-gn, dcrnn)."
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
        int,
        Flag("--server-batch", panel=TUNING),
        Field(gt=0, description="Windows per step there."),
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


class TrainConfig(SeriesOptions, GraphOptions, WindowOptions, ModelOptions, ResumeOption):
    """Options of `mlkit train forecast`."""

    series: Annotated[
        Path,
        Flag(argument=True, metavar="SERIES"),
        Field(description="Sensors in columns: CSV, TSV, parquet, HDF5 of pandas, NPZ; gzipped."),
    ]
    inductive: Annotated[
        float,
        Flag("--inductive", metavar="SHARE"),
        Field(gt=0, le=1, description="Train on this share of the sensors, the western ones."),
    ] = 1.0
    preset: Annotated[
        Literal["quick", "standard", "paper"],
        Flag("--preset"),
        Field(description="Sizes and length of the training; paper: its settings for METR-LA."),
    ] = "standard"
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="DIR"),
        Field(description="Run folder."),
    ] = Path("runs/forecast")

    @model_validator(mode="after")
    def _places_for_the_split(self) -> Self:
        if self.inductive < 1 and self.locations is None:
            raise ValueError("--inductive needs --locations: it takes the western sensors")
        if self.inductive < 1 and self.method not in (
            "cnfgnn",
            "fedavg",
            "central",
            "central-gn",
            "dcrnn",
        ):
            raise ValueError(f"--method {self.method} has no weights for sensors it never saw")
        return self


class ForecastConfig(SeriesOptions, GraphOptions, OverwriteOption):
    """Options of `mlkit forecast`."""

    series: Annotated[
        Path,
        Flag(argument=True, metavar="SERIES"),
        Field(description="Sensors in columns, the newest row last; - for a table on stdin."),
    ]
    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="Trained model; without it a small one is trained and kept by the file."),
    ] = None
    interval: Annotated[
        Literal["50", "80", "90"],
        Flag("--interval"),
        Field(description="Percent of the validation errors that lower and upper enclose."),
    ] = "80"
    wide: Annotated[
        bool, Flag("--wide"), Field(description="Write one column per sensor, without intervals.")
    ] = False
    node: Annotated[
        tuple[str, ...],
        Flag("--node"),
        Field(description="Sensor to draw and print; repeat for several."),
    ] = ()
    out: Annotated[
        Path | None,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE"),
        Field(description="Write the forecasts as .csv or .jsonl; - for standard output (CSV)."),
    ] = None
    plot: Annotated[
        Path | None,
        Flag("--plot", panel=OUTPUT, metavar="FILE.png"),
        Field(description="Draw the last day and the forecast of some sensors."),
    ] = None

    @model_validator(mode="after")
    def _known_format(self) -> Self:
        out = self.out
        if out is not None and out.name != "-" and out.suffix not in (".csv", ".jsonl"):
            raise ValueError(f"--out {out}: must end in .csv or .jsonl")
        if self.wide and out is not None and out.suffix == ".jsonl":
            raise ValueError("--wide writes .csv alone")
        return self


class EvalConfig(SeriesOptions, GraphOptions):
    """Options of `mlkit eval forecast`."""

    series: Annotated[
        Path, Flag(argument=True, metavar="SERIES"), Field(description="Sensors in columns.")
    ]
    weights: Annotated[
        tuple[Path, ...],
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(min_length=1, description="Trained model; repeat to compare several."),
    ]
    part: Annotated[
        Literal["test", "valid", "train", "all"],
        Flag("--part"),
        Field(description="Which windows, in time; all: every one (for another file)."),
    ] = "test"
    by_node: Annotated[
        bool, Flag("--by-node"), Field(description="One row per sensor as well.")
    ] = False
    every: Annotated[int, Flag("--every"), Field(ge=1, description="Score every k-th window.")] = 1
    plot: Annotated[
        Path | None,
        Flag("--plot", panel=OUTPUT, metavar="FILE.png"),
        Field(description="Draw the error over the horizon."),
    ] = None


class CheckConfig(SeriesOptions, GraphOptions):
    """Options of `mlkit check forecast`."""

    series: Annotated[
        Path, Flag(argument=True, metavar="SERIES"), Field(description="Sensors in columns.")
    ]
    history: Annotated[
        int, Flag("--history", panel=MODEL), Field(ge=1, le=10_000, description="Input steps.")
    ] = 12
    horizon: Annotated[
        int, Flag("--horizon", panel=MODEL), Field(ge=1, le=10_000, description="Output steps.")
    ] = 12


class SynthConfig(OverwriteOption):
    """Options of `mlkit data forecast-synth`."""

    sensors: Annotated[
        int, Flag("--sensors"), Field(ge=2, le=2000, description="Sensors along the roads.")
    ] = 12
    days: Annotated[int, Flag("--days"), Field(ge=2, le=400, description="Days.")] = 7
    step_minutes: Annotated[
        int, Flag("--step-minutes"), Field(ge=1, le=60, description="Minutes between rows.")
    ] = 10
    gaps: Annotated[
        float, Flag("--gaps"), Field(ge=0, lt=0.9, description="Share of values left out.")
    ] = 0.0
    seed: Annotated[
        int,
        Flag("--seed", panel="Run", env="MLKIT_SEED"),
        Field(ge=0, lt=2**63, description="Seed of every random choice."),
    ] = 0
    out: Annotated[
        Path, Flag("--out", "-o", panel=OUTPUT, metavar="DIR"), Field(description="Folder.")
    ] = Path("network")


class LinkOptions(Config):
    """How two machines prove who they are."""

    token_file: Annotated[
        Path,
        Flag("--token-file", metavar="FILE"),
        Field(description="A file with the password that coordinator and nodes share."),
    ]
    insecure: Annotated[
        bool,
        Flag("--insecure"),
        Field(description="No encryption: for tests, or inside a tunnel that encrypts."),
    ] = False


class ServeConfig(LinkOptions, WindowOptions, ModelOptions, ResumeOption):
    """Options of `mlkit federate serve`."""

    graph: Annotated[
        Path,
        Flag("--graph", "-g", metavar="FILE"),
        Field(description="The graph of all nodes; the server needs nothing else of them."),
    ]
    nodes: Annotated[
        Path,
        Flag("--nodes", metavar="FILE"),
        Field(description="The ids of all nodes, one per line, in the order of the graph."),
    ]
    graph_kind: Annotated[
        Literal["auto", "distances", "weights"],
        Flag("--graph-kind", panel=DATA),
        Field(description="What the numbers are; auto: weights if none exceeds 1."),
    ] = "auto"
    address: Annotated[
        str, Flag("--address", metavar="HOST:PORT"), Field(description="Where to listen.")
    ] = "0.0.0.0:8765"
    cert: Annotated[
        Path | None, Flag("--cert", metavar="FILE.pem"), Field(description="The certificate.")
    ] = None
    key: Annotated[
        Path | None, Flag("--key", metavar="FILE.pem"), Field(description="Its private key.")
    ] = None
    least: Annotated[
        int,
        Flag("--least", panel=TUNING),
        Field(ge=0, description="Start when so many nodes are there; 0: all."),
    ] = 0
    wait: Annotated[
        float, Flag("--wait", panel=TUNING), Field(gt=0, description="Seconds to wait for them.")
    ] = 600.0
    deadline: Annotated[
        float,
        Flag("--deadline", panel=TUNING),
        Field(gt=0, description="Seconds that a node may take for one answer."),
    ] = 120.0
    out: Annotated[
        Path, Flag("--out", "-o", panel=OUTPUT, metavar="DIR"), Field(description="Run folder.")
    ] = Path("runs/federation")

    @model_validator(mode="after")
    def _encrypted(self) -> Self:
        if not self.insecure and (self.cert is None or self.key is None):
            raise ValueError("give --cert and --key, or say --insecure")
        if self.method not in ("cnfgnn", "fedavg"):
            raise ValueError(f"--method {self.method} is simulated alone: mlkit train forecast")
        return self


class JoinConfig(LinkOptions, SeriesOptions, OverwriteOption):
    """Options of `mlkit federate join`."""

    address: Annotated[
        str,
        Flag(argument=True, metavar="HOST:PORT"),
        Field(description="Where the coordinator listens."),
    ]
    data: Annotated[
        Path,
        Flag("--data", metavar="FILE"),
        Field(description="Series; they stay here."),
    ]
    node: Annotated[
        tuple[str, ...],
        Flag("--node"),
        Field(description="Which sensors of the file to join as; repeat; default: all."),
    ] = ()
    ca: Annotated[
        Path | None,
        Flag("--ca", metavar="FILE.pem"),
        Field(description="Certificate that the coordinator's is checked against."),
    ] = None
    patience: Annotated[
        int,
        Flag(panel=TRAINING),
        Field(ge=0, description="Seconds to go on trying when the connection is lost."),
    ] = 600
    out: Annotated[
        Path | None,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE.csv"),
        Field(description="Write this machine's own forecasts at the end."),
    ] = None

    @model_validator(mode="after")
    def _encrypted(self) -> Self:
        if not self.insecure and self.ca is None:
            raise ValueError("give --ca, or say --insecure")
        return self
