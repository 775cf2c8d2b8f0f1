"""The options of `recommend`: one declaration for the command line, TOML, JSON and Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ...core.config import TUNING, Config, Flag
from ...core.options import (
    MODEL,
    OUTPUT,
    RUN,
    TRAINING,
    OverwriteOption,
    ResumeOption,
    TrainOptions,
)

DATA = "Data"

Variant = Literal["sa", "dr", "mind", "dnn", "gru4rec", "popular"]
SINGLE = ("dnn", "gru4rec", "popular")  # variants with one interest


class ColumnOptions(Config):
    """Which columns of the tables mean what, where their names do not tell."""

    user_col: Annotated[
        str | None,
        Flag("--user-col", panel=DATA, metavar="NAME"),
        Field(description="Column of the users (its number, from 1, without a header)."),
    ] = None
    item_col: Annotated[
        str | None,
        Flag("--item-col", panel=DATA, metavar="NAME"),
        Field(description="Column of the items, in the log and in --items."),
    ] = None
    time_col: Annotated[
        str | None,
        Flag("--time-col", panel=DATA, metavar="NAME"),
        Field(description="Column of the times; without one the order of the file counts."),
    ] = None
    category_col: Annotated[
        str | None,
        Flag("--category-col", panel=DATA, metavar="NAME"),
        Field(description="Column of the categories in --items."),
    ] = None
    title_col: Annotated[
        str | None,
        Flag("--title-col", panel=DATA, metavar="NAME"),
        Field(description="Column of the titles in --items."),
    ] = None
    where: Annotated[
        str | None,
        Flag("--where", panel=DATA, metavar="COLUMN=VALUE"),
        Field(description="Use only these rows of the log, for instance event=view."),
    ] = None

    @field_validator("where")
    @classmethod
    def _has_value(cls, where: str | None) -> str | None:
        if where is not None and "=" not in where:
            raise ValueError("write COLUMN=VALUE")
        return where


class SplitOptions(Config):
    """Who is trained on and who is tested on."""

    min_count: Annotated[
        int,
        Flag("--min-count", panel=DATA),
        Field(ge=1, description="Drop items, then users, with fewer interactions (one pass)."),
    ] = 5
    protocol: Annotated[
        Literal["users", "leave-one-out"],
        Flag("--protocol", panel=DATA),
        Field(
            description="Hold out users (the paper), or the last two items of every user "
            "(validation, test)."
        ),
    ] = "users"
    valid_share: Annotated[
        float, Flag("--valid", panel=DATA), Field(ge=0, le=0.5, description="Users to choose on.")
    ] = 0.1
    test_share: Annotated[
        float, Flag("--test", panel=DATA), Field(ge=0, le=0.5, description="Users to test on.")
    ] = 0.1
    counts: Annotated[
        Literal["train", "all"],
        Flag("--counts", panel=TUNING),
        Field(description="Number items by their count in training data, or in all (the code)."),
    ] = "train"
    split_seed: Annotated[
        int, Flag("--split-seed", panel=TUNING), Field(ge=0, description="Seed of the user split.")
    ] = 1230


class ModelOptions(Config):
    """The network."""

    variant: Annotated[
        Variant,
        Flag("--variant", panel=MODEL),
        Field(description="ComiRec-SA or -DR, or a baseline: MIND, YouTube DNN, GRU4Rec, popular."),
    ] = "sa"
    interests: Annotated[
        int,
        Flag("--interests", panel=MODEL),
        Field(ge=1, le=64, description="Interest vectors per user (sa, dr, mind)."),
    ] = 4
    dim: Annotated[
        int, Flag("--dim", panel=MODEL), Field(ge=1, le=4096, description="Length of a vector.")
    ] = 64
    max_history: Annotated[
        int,
        Flag("--max-history", panel=MODEL),
        Field(ge=1, le=10_000, description="Items of a history that are looked at, the last ones."),
    ] = 20
    routing_init: Annotated[
        float,
        Flag("--routing-init", panel=TUNING),
        Field(gt=0, description="Deviation of dr's first matrices; 1 is the authors' code."),
    ] = 1.0
    mind_relu: Annotated[
        bool,
        Flag("--mind-relu", panel=TUNING),
        Field(description="The layer behind mind's capsules that the authors use on Books."),
    ] = False


class LossOptions(Config):
    """What is minimised."""

    loss: Annotated[
        Literal["sampled", "uniform", "full"],
        Flag("--loss", panel=TUNING),
        Field(
            description="Softmax over log-uniform samples (the paper), uniform ones, or all items."
        ),
    ] = "sampled"
    negatives: Annotated[
        int,
        Flag("--negatives", panel=TUNING),
        Field(ge=1, le=10_000, description="Sampled items per row; a batch shares all of its own."),
    ] = 10
    readout: Annotated[
        Literal["hard", "soft", "max"],
        Flag("--readout", panel=TUNING),
        Field(
            description="Interest in the loss: nearest to the target (the paper), MIND's mixture, "
            "or for each item its best one, as in retrieval."
        ),
    ] = "hard"
    readout_power: Annotated[
        float, Flag("--readout-power", panel=TUNING), Field(ge=0, description="Sharpness of soft.")
    ] = 1.0
    collapse_weight: Annotated[
        float,
        Flag("--collapse-weight", panel=TUNING),
        Field(ge=0, description="Penalty on the squared cosine between a user's interests."),
    ] = 0.0
    hard_negatives: Annotated[
        float,
        Flag("--hard-negatives", panel=TUNING),
        Field(ge=0, le=100, description="Weigh negatives by exp(this * score), as REMI does."),
    ] = 0.0


class RecommendTrainOptions(
    TrainOptions,
    defaults={
        "steps": 5000,
        "save_every": 500,
        "patience": 5,
        "optimizer": "adamw",
        "weight_decay": 0.0,
        "schedule": "constant",
    },
):
    """The options of every training run, with the paper's Adam as default."""

    lr: Annotated[
        float,
        Flag(panel=TRAINING),
        Field(ge=0, description="Learning rate; 0: the variant's own (dr 0.005, others 0.001)."),
    ] = 0.0


class TrainConfig(ColumnOptions, SplitOptions, ModelOptions, LossOptions, ResumeOption):
    """Options of `mlkit train recommend`."""

    log: Annotated[
        Path,
        Flag(argument=True, metavar="LOG"),
        Field(description="Who touched what: CSV, TSV, JSON lines, parquet, sequences, gzipped."),
    ]
    items: Annotated[
        Path | None,
        Flag("--items", metavar="FILE"),
        Field(description="Titles and categories of the items, stored with the weights."),
    ] = None
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="DIR"),
        Field(description="Run folder."),
    ] = Path("runs/recommend")
    preset: Annotated[
        Literal["quick", "standard", "paper"],
        Flag("--preset"),
        Field(description="Length of the training; paper: its complete settings for Books."),
    ] = "standard"
    sparse: Annotated[
        Literal["auto", "on", "off"],
        Flag("--sparse", panel=TUNING),
        Field(description="Update only rows of the table that a step touches; auto: if large."),
    ] = "auto"


class MergeOptions(Config):
    """How the lists of the interests become one."""

    diversity: Annotated[
        float,
        Flag("--diversity", "-d", metavar="LAMBDA"),
        Field(ge=0, description="Trade accuracy for different categories; 0: accuracy alone."),
    ] = 0.0
    category: Annotated[
        Literal["first", "last", "all"],
        Flag("--category", panel=DATA),
        Field(description="Which of several categories a|b|c counts; all: their overlap."),
    ] = "first"


class RecommendConfig(ColumnOptions, MergeOptions, OverwriteOption):
    """Options of `mlkit recommend`."""

    log: Annotated[
        Path | None,
        Flag(argument=True, metavar="[LOG]"),
        Field(description="Who touched what. Not needed with --weights and --history."),
    ] = None
    user: Annotated[
        tuple[str, ...],
        Flag("--user", "-u"),
        Field(description="User of the log; repeat for several."),
    ] = ()
    history: Annotated[
        str | None,
        Flag("--history", metavar="A,B,C"),
        Field(description="Items of a new user, oldest first."),
    ] = None
    all_users: Annotated[
        bool, Flag("--all-users"), Field(description="Everybody in the log; wants -o.")
    ] = False
    top: Annotated[int, Flag("--top", "-k"), Field(ge=1, description="How many items.")] = 10
    items: Annotated[
        Path | None,
        Flag("--items", metavar="FILE"),
        Field(description="Table with item_id, category, title."),
    ] = None
    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="Trained model; without it a small one is trained and kept by the log."),
    ] = None
    keep_seen: Annotated[
        bool, Flag("--keep-seen"), Field(description="Items of the history may come again.")
    ] = False
    fallback: Annotated[
        Literal["none", "popular"],
        Flag("--fallback"),
        Field(description="For a user without known items: fail, or what is popular."),
    ] = "none"
    out: Annotated[
        Path | None,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE"),
        Field(description="Write .csv or .jsonl; - for standard output (CSV)."),
    ] = None
    plot: Annotated[
        Path | None,
        Flag("--plot", panel=OUTPUT, metavar="FILE.png"),
        Field(description="Draw the user's history and each interest's items on a map."),
    ] = None
    export_vectors: Annotated[
        Path | None,
        Flag("--export-vectors", panel=OUTPUT, metavar="DIR"),
        Field(description="Write item and user vectors (.npy) for an external index."),
    ] = None
    batch_size: Annotated[
        int, Flag("--batch-size", panel=TUNING), Field(ge=1, description="Users at a time.")
    ] = 256

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        chosen = [bool(self.user), self.history is not None, self.all_users]
        if sum(chosen) > 1:
            raise ValueError("--user, --history and --all-users exclude each other")
        if not any(chosen) and self.export_vectors is None:
            raise ValueError("say for whom: --user ID, --history A,B,C or --all-users")
        if self.log is None and (self.user or self.all_users):
            raise ValueError("--user and --all-users need a LOG")
        if self.log is None and self.weights is None:
            raise ValueError("give a LOG, or --weights with --history")
        if self.all_users and self.out is None:
            raise ValueError("--all-users wants -o FILE.csv or FILE.jsonl")
        if self.out is not None and self.out.name != "-" and self.out.suffix not in _FORMATS:
            raise ValueError(f"--out {self.out}: must end in {' or '.join(_FORMATS)}")
        return self


_FORMATS = (".csv", ".jsonl")


class EvalConfig(ColumnOptions):
    """Options of `mlkit eval recommend`."""

    log: Annotated[
        Path, Flag(argument=True, metavar="LOG"), Field(description="The log trained on.")
    ]
    weights: Annotated[
        tuple[Path, ...],
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(min_length=1, description="Trained model; repeat to compare several."),
    ]
    items: Annotated[
        Path | None,
        Flag("--items", metavar="FILE"),
        Field(description="Table with categories, where the weights hold none."),
    ] = None
    at: Annotated[str, Flag("--at", metavar="N,N"), Field(description="Lengths of the lists.")] = (
        "20,50"
    )
    diversity: Annotated[
        str,
        Flag("--diversity", "-d", metavar="LAMBDA,.."),
        Field(description="Values of the dial."),
    ] = "0"
    category: Annotated[
        Literal["first", "last", "all"],
        Flag("--category", panel=DATA),
        Field(description="Which of several categories a|b|c counts; all: their overlap."),
    ] = "first"
    ndcg: Annotated[
        Literal["ideal", "hits", "position"],
        Flag("--ndcg"),
        Field(
            description="Divide by the best DCG possible (the paper's formula) or by that of the "
            "hits (the code); position: rank in the targets (the published numbers)."
        ),
    ] = "ideal"
    recall_denominator: Annotated[
        Literal["sets", "list"],
        Flag("--recall-denominator"),
        Field(description="Count repeated targets once (the paper's formula) or each (the code)."),
    ] = "sets"
    part: Annotated[
        Literal["test", "valid", "all"],
        Flag("--part"),
        Field(description="Which users: those held out, or all (for another log)."),
    ] = "test"
    exclude_seen: Annotated[
        bool,
        Flag("--exclude-seen"),
        Field(description="Leave items of the history out (the paper keeps them)."),
    ] = False
    plot: Annotated[
        Path | None,
        Flag("--plot", panel=OUTPUT, metavar="FILE.png"),
        Field(description="Draw recall against diversity."),
    ] = None
    batch_size: Annotated[
        int, Flag("--batch-size", panel=TUNING), Field(ge=1, description="Users at a time.")
    ] = 256

    @property
    def lengths(self) -> list[int]:
        """The list lengths N."""
        return [int(part) for part in self.at.split(",")]

    @property
    def dial(self) -> list[float]:
        """The values of lambda."""
        return [float(part) for part in self.diversity.split(",")]

    @field_validator("at")
    @classmethod
    def _lengths(cls, at: str) -> str:
        if not all(part.strip().isdigit() and int(part) > 0 for part in at.split(",")):
            raise ValueError("write list lengths such as 20,50")
        return at

    @field_validator("diversity")
    @classmethod
    def _dial(cls, diversity: str) -> str:
        try:
            usable = all(0 <= float(part) < float("inf") for part in diversity.split(","))
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("write numbers from 0 up such as 0,0.05,0.25")
        return diversity


class CheckConfig(ColumnOptions):
    """Options of `mlkit check recommend`."""

    log: Annotated[
        Path, Flag(argument=True, metavar="LOG"), Field(description="The log to look through.")
    ]
    items: Annotated[
        Path | None, Flag("--items", metavar="FILE"), Field(description="Its table of items.")
    ] = None
    min_count: Annotated[
        int,
        Flag("--min-count", panel=DATA),
        Field(ge=1, description="What training would drop: items, then users, with fewer."),
    ] = 5


class SynthConfig(OverwriteOption):
    """Options of `mlkit data recommend-synth`."""

    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="DIR"),
        Field(description="Folder for log.csv and items.csv."),
    ] = Path("recommend-synth")
    users: Annotated[int, Flag("--users"), Field(ge=10, description="Users.")] = 2000
    catalogue: Annotated[int, Flag("--catalogue"), Field(ge=20, description="Items.")] = 400
    length: Annotated[
        int, Flag("--length"), Field(ge=5, description="Mean interactions per user.")
    ] = 20
    seed: Annotated[
        int,
        Flag("--seed", panel=RUN, env="MLKIT_SEED"),
        Field(ge=0, lt=2**63, description="Seed of every random choice."),
    ] = 0
