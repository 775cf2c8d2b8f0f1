"""The options of `zeroshot`: one declaration for the command line, TOML, JSON and Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ...core.config import TUNING, Config, Flag
from ...core.options import (
    MODEL,
    OUTPUT,
    TRAINING,
    OverwriteOption,
    ResumeOption,
    TrainOptions,
)

DATA = "Data"

Variant = Literal["adgpm", "dgpm", "gpm", "mlp", "gcnz"]
Scoring = Literal["ensemble", "graph", "ancestor", "conse", "ridge"]
# Hidden widths of GCNZ's five inner layers, as parts of --hidden.
_GCNZ = (1.0, 1.0, 0.5, 0.5, 0.25)


class NetworkOptions(Config):
    """The graph network."""

    variant: Annotated[
        Variant,
        Flag("--variant", panel=MODEL),
        Field(description="Propagation rule, or a baseline: mlp (no graph), gcnz (six layers)."),
    ] = "adgpm"
    hidden: Annotated[
        int, Flag("--hidden", panel=MODEL), Field(ge=1, le=16384, description="Hidden width.")
    ] = 512
    groups: Annotated[
        int,
        Flag("--groups", panel=TUNING),
        Field(ge=0, le=32, description="Distances with an attention of their own (adgpm)."),
    ] = 4
    dropout: Annotated[
        float,
        Flag("--dropout", panel=TUNING),
        Field(ge=0, lt=1, description="On the inputs of the last two layers."),
    ] = 0.5
    renormalise: Annotated[
        bool,
        Flag("--renormalise", panel=TUNING),
        Field(description="Scale the attention to 1 where a class lacks a distance."),
    ] = False

    @property
    def widths(self) -> list[int]:
        """The hidden widths: one layer, or GCNZ's five."""
        if self.variant == "gcnz":
            return [max(1, int(part * self.hidden)) for part in _GCNZ]
        return [self.hidden]


class FactoryOption(Config):
    """Who builds a classifier that has no name."""

    factory: Annotated[
        str | None,
        Flag("--factory", panel=MODEL, metavar="PKG.MODULE:FUNCTION"),
        Field(description="Your own function that builds the classifier."),
    ] = None


class BackboneOptions(FactoryOption):
    """The trained classifier whose features and rows are used."""

    backbone: Annotated[
        str | None,
        Flag("--backbone", panel=MODEL, metavar="NAME"),
        Field(description="Its name, see 'mlkit list --models' (default: efficientnet_lite0)."),
    ] = None
    backbone_weights: Annotated[
        Path | None,
        Flag("--backbone-weights", panel=MODEL, metavar="FILE"),
        Field(description="Its state dict, .pth or .safetensors."),
    ] = None


class GraphOptions(Config):
    """Classes: the taxonomy, which of them are seen, and their vectors."""

    graph: Annotated[
        str,
        Flag("--graph", panel=DATA, metavar="wordnet|FILE"),
        Field(description="WordNet 3.0, or your own: child<TAB>parent, JSON tree, synset table."),
    ] = "wordnet"
    seen: Annotated[
        Path | None,
        Flag("--seen", panel=DATA, metavar="FILE"),
        Field(description="Classes of the classifier, one a line, in its order (ImageNet's 1000)."),
    ] = None
    classes: Annotated[
        Path | None,
        Flag("--classes", "-c", panel=DATA, metavar="FILE"),
        Field(description="Unseen classes that the graph must hold, one a line."),
    ] = None
    nodes: Annotated[
        Literal["official", "induced", "full"],
        Flag("--nodes", panel=DATA),
        Field(
            description="Nodes of the graph: ImageNet's structure (wordnet alone), the classes "
            "and what is above them, or the whole taxonomy."
        ),
    ] = "official"
    semantic: Annotated[
        str,
        Flag("--semantic", panel=DATA, metavar="embedded|minilm|FILE"),
        Field(
            description="Vectors of the classes: those that come along (WordNet), definitions "
            "read by MiniLM, or word vectors: GloVe or word2vec text, .npy, .safetensors."
        ),
    ] = "embedded"
    text_encoder: Annotated[
        Path | None,
        Flag("--text-encoder", panel=DATA, metavar="DIR"),
        Field(description="Folder of the encoder for --semantic minilm."),
    ] = None
    case_sensitive: Annotated[
        bool,
        Flag("--case-sensitive", panel=TUNING),
        Field(description="Look words up as they are written, as the official code does."),
    ] = False


class CheckConfig(GraphOptions):
    """Options of `mlkit check zeroshot`."""


class ZeroshotTraining(
    TrainOptions,
    defaults={
        "epochs": 300,
        "batch_size": 1,
        "lr": 1e-3,
        "optimizer": "adamw",
        "schedule": "constant",
        "save_every": 50,
    },
):
    """The options of every training run, with the paper's Adam; an epoch is one step."""


class TrainConfig(GraphOptions, NetworkOptions, BackboneOptions, ResumeOption):
    """Options of `mlkit train zeroshot`."""

    images: Annotated[
        Path | None,
        Flag("--images", panel=DATA, metavar="DIR|TABLE"),
        Field(
            description="Photos of seen classes, to choose the ensemble on: a fifth of the "
            "classes is held out for it."
        ),
    ] = None
    out: Annotated[
        Path, Flag("--out", "-o", panel=OUTPUT, metavar="DIR"), Field(description="Run folder.")
    ] = Path("runs/zeroshot")
    preset: Annotated[
        Literal["quick", "standard", "paper"],
        Flag("--preset"),
        Field(description="Size and length: 256 wide and 150 epochs, 512 and 300, 2048 and 3000."),
    ] = "standard"


class FinetuneTraining(
    TrainOptions,
    defaults={
        "epochs": 20,
        "batch_size": 64,
        "lr": 1e-4,
        "weight_decay": 0.0,
        "schedule": "constant",
    },
):
    """The options of every training run, with those of the official fine-tuning."""


class FinetuneConfig(FactoryOption, ResumeOption):
    """Options of `mlkit train zeroshot-finetune`."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="DATA"),
        Field(description="Photos of seen classes: class folders, or a table (file, wnid)."),
    ]
    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="Model of 'mlkit train zeroshot' (default: the embedded one)."),
    ] = None
    only: Annotated[
        str,
        Flag("--only", panel=TRAINING, metavar="PREFIX"),
        Field(description="Train the parameters alone whose names begin so."),
    ] = ""
    out: Annotated[
        Path, Flag("--out", "-o", panel=OUTPUT, metavar="DIR"), Field(description="Run folder.")
    ] = Path("runs/zeroshot-finetune")


class ScoringOptions(BackboneOptions):
    """What scores a photo against a class."""

    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="Model of 'mlkit train zeroshot' (default: the embedded one)."),
    ] = None
    rows: Annotated[
        Path | None,
        Flag("--rows", panel=MODEL, metavar="FILE"),
        Field(description="Use these predicted rows: official .pred, or .safetensors of ours."),
    ] = None
    seen_rows: Annotated[
        Literal["predicted", "true"],
        Flag("--seen-rows", panel=TUNING),
        Field(description="Rows of seen candidates: predicted (official), or the classifier's."),
    ] = "predicted"
    seen_penalty: Annotated[
        float | None,
        Flag("--seen-penalty", panel=TUNING),
        Field(description="Taken from seen candidates' scores, in deviations of a photo's scores."),
    ] = None
    batch_size: Annotated[
        int, Flag("--batch-size", panel=TUNING), Field(ge=1, description="Photos at a time.")
    ] = 32


class ZeroshotConfig(ScoringOptions, OverwriteOption):
    """Options of `mlkit zeroshot`."""

    inputs: Annotated[
        tuple[Path, ...],
        Flag(argument=True, metavar="[INPUTS]"),
        Field(description="Photos and folders of photos; - for standard input."),
    ] = ()
    classes: Annotated[
        Path | None,
        Flag("--classes", "-c", metavar="FILE"),
        Field(description="Candidates, one a line: a name, an id, or both with a tab between."),
    ] = None
    among: Annotated[
        str | None,
        Flag("--among", metavar="A,B,C"),
        Field(description="Candidates on the command line instead."),
    ] = None
    with_seen: Annotated[
        bool, Flag("--with-seen"), Field(description="The classifier's own classes compete too.")
    ] = False
    by: Annotated[
        Scoring,
        Flag("--by"),
        Field(description="The tuned mixture, or one part of it alone, or ridge regression."),
    ] = "ensemble"
    top: Annotated[int, Flag("--top", "-k"), Field(ge=1, description="Classes per photo.")] = 5
    explain: Annotated[
        str | None,
        Flag("--explain", metavar="CLASS"),
        Field(description="Show a class's way to the root, its seen relatives, the attention."),
    ] = None
    strict: Annotated[
        bool,
        Flag("--strict", panel="Batch"),
        Field(description="Stop at the first file that cannot be used, instead of skipping it."),
    ] = False
    out: Annotated[
        Path | None,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE"),
        Field(description="Write .csv or .jsonl; - for standard output (CSV)."),
    ] = None
    plot: Annotated[
        Path | None,
        Flag("--plot", panel=OUTPUT, metavar="FILE.png"),
        Field(description="Draw the first photos with their best classes."),
    ] = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.explain is None and not self.inputs:
            raise ValueError("give photos, or --explain CLASS")
        if self.explain is not None and self.inputs:
            raise ValueError("--explain takes no photos")
        if self.inputs and (self.classes is None) == (self.among is None):
            raise ValueError("name the candidates with --classes FILE or with --among A,B,C")
        if self.out is not None and self.out.name != "-" and self.out.suffix not in _FORMATS:
            raise ValueError(f"--out {self.out}: must end in {' or '.join(_FORMATS)}")
        if self.rows is not None and self.by not in ("graph", "ensemble"):
            raise ValueError(f"--rows has no part in --by {self.by}")
        return self


_FORMATS = (".csv", ".jsonl")


class EvalConfig(ScoringOptions):
    """Options of `mlkit eval zeroshot`."""

    data: Annotated[
        Path,
        Flag(argument=True, metavar="DATA"),
        Field(description="Photos in folders named by class, or a table (file, wnid)."),
    ]
    classes: Annotated[
        str,
        Flag("--classes", "-c", metavar="photos|2-hops|3-hops|all|FILE"),
        Field(description="Candidates: the classes of the photos, a split of ImageNet, a list."),
    ] = "photos"
    generalised: Annotated[
        bool, Flag("--generalised"), Field(description="The seen classes compete, too.")
    ] = False
    plot: Annotated[
        Path | None,
        Flag("--plot", panel=OUTPUT, metavar="FILE.png"),
        Field(description="Draw hit@k over k."),
    ] = None


class RowsConfig(ScoringOptions, OverwriteOption):
    """Options of `mlkit data zeroshot-rows`."""

    classes: Annotated[
        str,
        Flag("--classes", "-c", metavar="2-hops|3-hops|all|FILE"),
        Field(description="Classes to predict rows for: a split of ImageNet, or a list."),
    ] = "2-hops"
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE"),
        Field(description="Where to write; .pred is the official format, .safetensors ours."),
    ] = Path("rows.safetensors")

    @model_validator(mode="after")
    def _known_format(self) -> Self:
        if self.out.suffix not in (".pred", ".safetensors"):
            raise ValueError(f"--out {self.out}: must end in .pred or .safetensors")
        return self
