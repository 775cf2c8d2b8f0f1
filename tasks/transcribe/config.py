"""The options of `transcribe`: one declaration for the command line, TOML, JSON and Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ...core.config import TUNING, Config, Flag
from ...core.options import (
    MODEL,
    OUTPUT,
    TRAINING,
    OverwriteOption,
    ResumeOption,
    TrainOptions,
)

METHOD = "Pseudo-labels"
DATA = "Data"
DECODING = "Decoding"
FORMATS = ("txt", "json", "srt", "vtt", "ctm")

Arm = Literal["supervised", "pl", "filter", "mask-token", "apl", "oracle-flags", "oracle-labels"]
Confidence = Literal["max", "mean", "min", "geo", "posterior", "perturbed", "agreement", "fused"]


class ModelOptions(Config):
    """The network."""

    model: Annotated[
        Literal["tiny", "conformer", "wav2vec2"],
        Flag("--model", panel=MODEL),
        Field(description="Convolutions and a GRU for a CPU, or torchaudio's large models."),
    ] = "tiny"
    rate: Annotated[
        int,
        Flag("--rate", panel=MODEL, metavar="HZ"),
        Field(ge=4000, le=48_000, description="Sampling rate that the model hears."),
    ] = 16_000
    mel_bins: Annotated[
        int, Flag("--mel-bins", panel=TUNING), Field(ge=8, le=256, description="Mel bands.")
    ] = 80
    width: Annotated[
        int,
        Flag("--width", panel=TUNING),
        Field(ge=8, le=4096, description="Size of the layers (wav2vec2 base: 768)."),
    ] = 80
    layers: Annotated[
        int,
        Flag("--layers", panel=TUNING),
        Field(ge=1, le=64, description="Blocks of conformer and wav2vec2."),
    ] = 12
    heads: Annotated[
        int,
        Flag("--heads", panel=TUNING),
        Field(ge=1, le=64, description="Attention heads of conformer and wav2vec2."),
    ] = 4
    dropout: Annotated[
        float, Flag("--dropout", panel=TUNING), Field(ge=0, lt=1, description="Dropout.")
    ] = 0.15

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.model == "wav2vec2" and self.rate != 16_000:
            raise ValueError("--model wav2vec2 hears 16000 Hz")
        if self.model != "tiny" and self.width % self.heads:
            raise ValueError("--width must be a multiple of --heads")
        return self


class DoubtOptions(Config):
    """How tokens are doubted, and what a doubted token means to the loss."""

    confidence: Annotated[
        Confidence,
        Flag("--confidence", panel=METHOD),
        Field(
            description="How sure a token is: of its frames (max, mean, min, geo), its share of "
            "the probability (posterior), that over augmented passes (perturbed) or the student "
            "(agreement), all together (fused)."
        ),
    ] = "max"
    threshold: Annotated[
        str,
        Flag("--threshold", panel=METHOD, metavar="auto|rate|precision=P|NUMBER"),
        Field(description="Below it a token is doubted; auto: best F-beta on held-out audio."),
    ] = "auto"
    beta: Annotated[
        float,
        Flag("--beta", panel=TUNING),
        Field(gt=0, le=100, description="Weight of recall for --threshold auto."),
    ] = 2.0
    alternatives: Annotated[
        str,
        Flag("--alternatives", panel=METHOD, metavar="all|topk:N|star|star-mean"),
        Field(description="What a doubted token may be; star: one native call, approximate."),
    ] = "all"
    alternative_weight: Annotated[
        float,
        Flag("--alternative-weight", panel=TUNING),
        Field(le=0, description="Log weight of the alternatives beside the token itself."),
    ] = 0.0
    soft: Annotated[
        bool,
        Flag("--soft", panel=TUNING),
        Field(description="Weigh alternatives by the confidence instead of a threshold."),
    ] = False
    skip: Annotated[
        float | None,
        Flag("--skip", panel=TUNING, metavar="LOGWEIGHT"),
        Field(le=0, description="A doubted token may also be absent, at this log weight."),
    ] = None
    extra: Annotated[
        float | None,
        Flag("--extra", panel=TUNING, metavar="LOGWEIGHT"),
        Field(le=0, description="Further tokens may stand beside a doubted one."),
    ] = None
    most_flagged: Annotated[
        float,
        Flag("--most-flagged", panel=TUNING),
        Field(gt=0, le=1, description="Drop an utterance with a larger share of doubted tokens."),
    ] = 0.5
    passes: Annotated[
        int,
        Flag("--passes", panel=TUNING),
        Field(ge=1, le=16, description="Augmented passes of perturbed and fused."),
    ] = 3

    @field_validator("threshold")
    @classmethod
    def _rule(cls, text: str) -> str:
        from .threshold_rules import parse_rule

        parse_rule(text)
        return text

    @field_validator("alternatives")
    @classmethod
    def _known(cls, text: str) -> str:
        name, _, count = text.partition(":")
        if text not in ("all", "star", "star-mean") and not (
            name == "topk" and count.isdigit() and int(count) > 0
        ):
            raise ValueError("must be all, topk:N, star or star-mean")
        return text


class MethodOptions(DoubtOptions):
    """The semi-supervised training."""

    method: Annotated[
        Arm,
        Flag("--method", panel=METHOD),
        Field(
            description="apl, or what stands beside it; the oracles need transcripts of the "
            "unlabelled audio and are for experiments."
        ),
    ] = "apl"
    contrastive: Annotated[
        float,
        Flag("--contrastive", panel=METHOD),
        Field(ge=0, description="Weight of the contrastive loss on labelled audio."),
    ] = 0.3
    contrast: Annotated[
        Literal["sequence", "token"],
        Flag("--contrast", panel=TUNING),
        Field(description="Against the model's own errors, or every token's substitutions."),
    ] = "sequence"
    unlabelled_weight: Annotated[
        float,
        Flag("--unlabelled-weight", panel=TUNING),
        Field(ge=0, description="Weight of the loss on unlabelled audio."),
    ] = 1.0
    ramp: Annotated[
        int,
        Flag("--ramp", panel=TUNING),
        Field(ge=0, description="Steps over which that weight grows from 0."),
    ] = 30
    teacher_decay: Annotated[
        float,
        Flag("--teacher-decay", panel=TUNING),
        Field(ge=0, le=1, description="Decay of the teacher, the student's moving average."),
    ] = 0.95
    retune_every: Annotated[
        int,
        Flag("--retune-every", panel=TUNING),
        Field(ge=1, description="Steps between two searches for the threshold."),
    ] = 25
    filter_above: Annotated[
        float,
        Flag("--filter-above", panel=TUNING),
        Field(ge=0, le=1, description="Utterances that --method filter keeps: geometric mean."),
    ] = 0.9
    augment: Annotated[
        float,
        Flag("--augment", panel=TUNING),
        Field(ge=0, le=5, description="Strength of SpecAugment on labelled audio."),
    ] = 0.5
    augment_unlabelled: Annotated[
        float,
        Flag("--augment-unlabelled", panel=TUNING),
        Field(ge=0, le=5, description="Strength of SpecAugment on unlabelled audio."),
    ] = 0.5


class StageOptions(Config):
    """Length and size of the second stage, on pseudo-labels."""

    pseudo_steps: Annotated[
        int,
        Flag("--pseudo-steps", panel=TRAINING),
        Field(ge=1, description="Steps with pseudo-labels, after --steps without."),
    ] = 300
    pseudo_lr: Annotated[
        float,
        Flag("--pseudo-lr", panel=TUNING),
        Field(gt=0, description="Learning rate of that stage."),
    ] = 3e-3
    labelled_batch: Annotated[
        int,
        Flag("--labelled-batch", panel=TUNING),
        Field(ge=1, description="Labelled utterances beside a batch of unlabelled ones."),
    ] = 8


class TranscribeTrainOptions(
    TrainOptions,
    defaults={
        "steps": 600,
        "batch_size": 16,
        "lr": 4e-3,
        "save_every": 100,
        "optimizer": "adamw",
        "weight_decay": 0.0,
        "warmup": 30,
        "clip": 5.0,
    },
):
    """The options of every training run, with the defaults of a small CTC model."""


class TokenOptions(Config):
    """How transcripts become tokens."""

    units: Annotated[
        Literal["char", "word"],
        Flag("--units", panel=DATA),
        Field(description="Tokens are characters, or whole words (small vocabularies)."),
    ] = "char"
    tokens: Annotated[
        Literal["letters", "data"],
        Flag("--tokens", panel=DATA),
        Field(description="a-z, apostrophe and blank, or whatever occurs in the transcripts."),
    ] = "letters"
    unknown: Annotated[
        Literal["error", "drop"],
        Flag("--unknown", panel=DATA),
        Field(description="What to do with characters that are no tokens."),
    ] = "error"


class TrainConfig(ModelOptions, MethodOptions, StageOptions, TokenOptions, ResumeOption):
    """Options of `mlkit train transcribe`."""

    labelled: Annotated[
        Path,
        Flag(argument=True, metavar="LABELLED"),
        Field(description="Transcribed audio: LibriSpeech tree, manifest, Kaldi, TSV, FSDD."),
    ]
    unlabelled: Annotated[
        Path | None,
        Flag("--unlabelled", "-u", metavar="PATH"),
        Field(description="Audio without transcripts: a folder, or any of these data sets."),
    ] = None
    dev: Annotated[
        Path | None,
        Flag("--dev", metavar="PATH"),
        Field(description="Transcribed audio to choose on; else 15 % of LABELLED is held out."),
    ] = None
    out: Annotated[
        Path, Flag("--out", "-o", panel=OUTPUT, metavar="DIR"), Field(description="Run folder.")
    ] = Path("runs/transcribe")
    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="Start from this model instead of the supervised stage."),
    ] = None
    init_weights: Annotated[
        Path | None,
        Flag("--init-weights", panel=TUNING, metavar="FILE"),
        Field(description="A state dict for the network, all but its last layer (wav2vec2)."),
    ] = None

    @model_validator(mode="after")
    def _has_unlabelled(self) -> Self:
        if self.method != "supervised" and self.unlabelled is None:
            raise ValueError(
                f"--method {self.method} needs --unlabelled PATH; "
                "with transcripts alone: --method supervised"
            )
        return self


class DecodeOptions(Config):
    """From probabilities to text."""

    decode: Annotated[
        Literal["greedy", "beam"],
        Flag("--decode", panel=DECODING),
        Field(description="Best token of each frame, or prefix beam search."),
    ] = "greedy"
    beam: Annotated[
        int, Flag("--beam", panel=DECODING), Field(ge=1, le=1000, description="Width of the beam.")
    ] = 20
    words: Annotated[
        Path | None,
        Flag("--words", panel=DECODING, metavar="FILE"),
        Field(description="Beam search writes only these words (one per line)."),
    ] = None
    lm: Annotated[
        Path | None,
        Flag("--lm", panel=DECODING, metavar="FILE.arpa"),
        Field(description="Beam search with this n-gram model of words."),
    ] = None
    lm_weight: Annotated[
        float, Flag("--lm-weight", panel=TUNING), Field(ge=0, description="Weight of --lm.")
    ] = 0.5
    word_bonus: Annotated[
        float, Flag("--word-bonus", panel=TUNING), Field(description="Added per word with --lm.")
    ] = 0.0
    window_s: Annotated[
        float,
        Flag("--window", panel=TUNING, metavar="SECONDS"),
        Field(ge=5, le=600, description="Long audio is heard in windows of this length."),
    ] = 30.0
    batch_seconds: Annotated[
        float,
        Flag("--batch-seconds", panel=TUNING),
        Field(gt=0, description="Audio in one batch."),
    ] = 120.0

    @model_validator(mode="after")
    def _beam_for_words(self) -> Self:
        if self.decode == "greedy" and (self.words is not None or self.lm is not None):
            raise ValueError("--words and --lm need --decode beam")
        return self


class TranscribeConfig(DecodeOptions):
    """Options of `mlkit transcribe`."""

    audio: Annotated[
        tuple[Path, ...],
        Flag(argument=True, metavar="AUDIO..."),
        Field(min_length=1, description="Audio files, or folders of them; - is standard input."),
    ]
    out: Annotated[
        Path | None,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE|DIR"),
        Field(description="One file for one input, a folder for several; - for standard output."),
    ] = None
    format: Annotated[
        Literal["txt", "json", "srt", "vtt", "ctm"] | None,
        Flag("--format", "-f", panel=OUTPUT),
        Field(description="Text, words with times and confidences, or subtitles."),
    ] = None
    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="Trained model; without it the embedded one: English digits."),
    ] = None


class EvalConfig(DecodeOptions):
    """Options of `mlkit eval transcribe`."""

    data: Annotated[
        Path, Flag(argument=True, metavar="DATA"), Field(description="Transcribed audio.")
    ]
    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="Trained model; without it the embedded one: English digits."),
    ] = None
    trn: Annotated[
        Path | None,
        Flag("--trn", panel=OUTPUT, metavar="FILE"),
        Field(description="Write the transcripts as sclite reads them."),
    ] = None


class CheckConfig(TokenOptions):
    """Options of `mlkit check transcribe`."""

    data: Annotated[Path, Flag(argument=True, metavar="DATA"), Field(description="A data set.")]
    against: Annotated[
        Path | None,
        Flag("--against", metavar="PATH"),
        Field(description="Another set that must not share recordings with this one."),
    ] = None


class PseudoConfig(DoubtOptions, OverwriteOption):
    """Options of `mlkit data pseudo-labels`."""

    data: Annotated[
        Path, Flag(argument=True, metavar="AUDIO"), Field(description="Audio without transcripts.")
    ]
    weights: Annotated[
        Path | None,
        Flag("--weights", panel=MODEL, metavar="FILE"),
        Field(description="Trained model; without it the embedded one: English digits."),
    ] = None
    proxy: Annotated[
        Path | None,
        Flag("--proxy", metavar="PATH"),
        Field(description="Transcribed audio, not trained on, for a threshold by rule."),
    ] = None
    out: Annotated[
        Path,
        Flag("--out", "-o", panel=OUTPUT, metavar="FILE.jsonl"),
        Field(description="Where to write; - for standard output."),
    ] = Path("pseudo.jsonl")

    @model_validator(mode="after")
    def _rule_needs_proxy(self) -> Self:
        from .threshold_rules import parse_rule

        if self.proxy is None and parse_rule(self.threshold).name != "fixed":
            raise ValueError("without --proxy give --threshold a number, for instance 0.8")
        if self.confidence == "fused" and self.proxy is None:
            raise ValueError("--confidence fused learns from --proxy")
        if self.confidence == "agreement":
            raise ValueError("--confidence agreement needs a student: it is for training")
        return self


class JoinConfig(OverwriteOption):
    """Options of `mlkit data spoken-strings`."""

    recordings: Annotated[
        Path,
        Flag(argument=True, metavar="RECORDINGS"),
        Field(description="Folder of WORD_SPEAKER_INDEX.wav (free spoken digit dataset)."),
    ]
    count: Annotated[
        int, Flag("--count"), Field(ge=1, le=1_000_000, description="Strings to make.")
    ] = 300
    indices: Annotated[
        str, Flag("--indices", metavar="A-B"), Field(description="Recordings to take.")
    ] = "5-49"
    speakers: Annotated[
        str | None,
        Flag("--speakers", metavar="A,B"),
        Field(description="Speakers to take; all without it."),
    ] = None
    size: Annotated[str, Flag("--size", metavar="A-B"), Field(description="Words in a string.")] = (
        "3-6"
    )
    noise: Annotated[
        float, Flag("--noise"), Field(ge=0, le=1, description="Deviation of white noise.")
    ] = 0.002
    speed: Annotated[
        float,
        Flag("--speed"),
        Field(ge=0, le=0.5, description="Change tempo and pitch by up to this share."),
    ] = 0.0
    out: Annotated[
        Path, Flag("--out", "-o", panel=OUTPUT, metavar="DIR"), Field(description="Where to.")
    ] = Path("strings")

    @field_validator("indices", "size")
    @classmethod
    def _is_range(cls, text: str) -> str:
        bounds(text)
        return text


def bounds(text: str) -> tuple[int, int]:
    """Read A-B, or A alone. Raises `ValueError` for anything else."""
    first, _, last = text.partition("-")
    last = last or first
    if not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise ValueError("write A-B, for instance 3-6")
    return int(first), int(last)
