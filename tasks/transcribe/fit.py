"""Training: transcribed audio, then audio without transcripts, to weights in a run folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import torch

from ...core.checkpoint import read_state_dict
from ...core.errors import CheckpointError, DataError
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.report import write_report
from ...core.results import Result, Table
from ...core.runtime import Runtime, start, stream
from ...core.training import Fitted, Run
from .checkpoint import Trained, open_trained, save_model
from .config import MethodOptions, ModelOptions, StageOptions, TrainConfig, TranscribeTrainOptions
from .data import Corpus, Utterance
from .model import Acoustic, build
from .readers import fingerprint, need_audio, need_text, read_set, shared
from .stages import score_greedy, train_pseudo, train_supervised
from .tokens import LETTERS, Tokens, collect

HELD_OUT = 0.15
SHORTEST_S = 0.04


def train(
    config: TrainConfig,
    options: TranscribeTrainOptions | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Train and leave a run folder with `best.safetensors` in it.

    Raises `DataError` for unusable data, `UsageError` for a folder that holds a run already.
    """
    progress = progress or Silent()
    begin = time.monotonic()
    options = options or TranscribeTrainOptions()
    runtime = start(run_options or RunOptions())
    run = Run.open(config.out, config.resume, stages=("seed",))
    folder = run.folder
    if config.resume is not None and not any((folder / f).exists() for f in _STATES):
        raise CheckpointError(
            f"nothing to resume in {folder}", "give the run folder of an interrupted training"
        )
    sets = Sets(config, runtime.seed, progress)
    settings = run.record("train transcribe", runtime, config, options)
    job = _Job(config, options, runtime, progress, sets, folder)
    history = job.run()
    result = job.summary(time.monotonic() - begin)
    if runtime.is_main:
        write_report(
            folder / "report.html",
            f"mlkit train transcribe: {config.method}",
            result,
            settings=settings,
            command=command,
            history=history.history,
        )
    return result


_STATES = ("last.safetensors", "seed/last.safetensors")


class Sets:
    """The data of a training: labelled, dev, unlabelled, and the tokens they are written in."""

    def __init__(self, config: TrainConfig, seed: int, progress: Progress) -> None:
        self.started = None if config.weights is None else open_trained(config.weights)
        self.options = part(config, ModelOptions)
        if self.started is not None:
            self.options = self.started.options
        rate = self.options.rate
        labelled = self._read(config.labelled, transcribed=True)
        if config.dev is not None:
            dev = self._read(config.dev, transcribed=True)
            _warn_of_overlap(labelled, dev, "LABELLED", "--dev", progress)
        else:
            labelled, dev = hold_out(labelled, seed)
        unlabelled: list[Utterance] = []
        if config.unlabelled is not None and config.method != "supervised":
            unlabelled = self._read(config.unlabelled, config.method.startswith("oracle"))
            _warn_of_overlap([*labelled, *dev], unlabelled, "LABELLED", "--unlabelled", progress)
        self.tokens = self._tokens(config, labelled)
        self.fingerprint = fingerprint(labelled)
        drop = config.unknown == "drop"
        self.labelled = Corpus(labelled, self.tokens, rate, drop)
        self.dev = Corpus(dev, self.tokens, rate, drop)
        hidden = not config.method.startswith("oracle")
        self.unlabelled = Corpus(unlabelled, self.tokens, rate, drop, hide_text=hidden)

    def _read(self, path: Path, transcribed: bool) -> list[Utterance]:
        found = read_set(path)
        if transcribed:
            need_text(found, path)
        need_audio(found, SHORTEST_S)
        return found

    def _tokens(self, config: TrainConfig, labelled: list[Utterance]) -> Tokens:
        if self.started is not None:
            return self.started.tokens
        if config.tokens == "data" or config.units == "word":
            return collect((item.text or "" for item in labelled), config.units)
        return LETTERS


def hold_out(utterances: list[Utterance], seed: int) -> tuple[list[Utterance], list[Utterance]]:
    """Split off 15 % at random, at least one. Raises `DataError` when nothing would be left."""
    if len(utterances) < 2:
        raise DataError("one labelled recording is too few", "give more, or --dev PATH")
    count = max(1, round(HELD_OUT * len(utterances)))
    order = torch.randperm(len(utterances), generator=stream(seed, 8)).tolist()
    held = set(order[:count])
    rest = [item for i, item in enumerate(utterances) if i not in held]
    return rest, [utterances[i] for i in sorted(held)]


def _warn_of_overlap(
    one: list[Utterance], two: list[Utterance], name: str, other: str, progress: Progress
) -> None:
    both = shared(one, two)
    if both:
        progress.warn(
            f"{len(both)} recordings of {other} are also in {name} (the first: {both[0][1]}); "
            "scores on them say nothing"
        )


def part(config: Any, kind: type[Any]) -> Any:
    """Return the options of `config` that `kind` declares."""
    return kind(**config.model_dump(include=set(kind.model_fields)))


class _Job:
    """One training, in one stage or two; each stage has its own state, so that both resume."""

    def __init__(
        self,
        config: TrainConfig,
        options: TranscribeTrainOptions,
        runtime: Runtime,
        progress: Progress,
        sets: Sets,
        folder: Path,
    ) -> None:
        self.config, self.options, self.runtime = config, options, runtime
        self.progress, self.sets, self.folder = progress, sets, folder
        self.weights = folder / "best.safetensors"
        self.method = part(config, MethodOptions)

    def run(self) -> Fitted:
        """Train and return how the last stage ended."""
        torch.manual_seed(self.runtime.seed)
        model = self._start()
        alone = self.config.method == "supervised"
        if alone or self.sets.started is None:
            fitted = self._supervised(model, self.folder if alone else self.folder / "seed")
            if alone:
                return fitted
        self.seed_rate = score_greedy(model, self.sets.dev).rate
        return self._pseudo(model)

    def _start(self) -> Acoustic:
        if self.sets.started is not None:
            return self.sets.started.model
        model = build(self.sets.options, len(self.sets.tokens))
        if self.config.init_weights is not None:
            load_body(model, self.config.init_weights)
        return model

    def _supervised(self, model: Acoustic, folder: Path) -> Fitted:
        method: Literal["supervised"] = "supervised"
        return train_supervised(
            model, self.sets.labelled, self.sets.dev,
            self.method.model_copy(update={"method": method}), self.options, self.runtime,
            run=Run.continued(folder), save_best=self._keep(folder), progress=self.progress,
            title="supervised",
        )  # fmt: skip

    def _pseudo(self, model: Acoustic) -> Fitted:
        # The stage's random numbers do not depend on where the stage before was interrupted.
        torch.manual_seed(self.runtime.seed + 1)
        objective, fitted = train_pseudo(
            model, self.sets.labelled, self.sets.unlabelled, self.sets.dev, self.method,
            part(self.config, StageOptions), self.options, self.runtime,
            run=Run.continued(self.folder), save_best=self._keep(self.folder),
            progress=self.progress,
        )  # fmt: skip
        self._warn(objective.few_errors, fitted)
        return fitted

    def _warn(self, few_errors: bool, fitted: Fitted) -> None:
        if few_errors:
            self.progress.warn(
                "the teacher made fewer than 3 errors on held-out audio: the threshold is the "
                "2 % quantile; more --dev audio would tell better"
            )
        dev = self.sets.dev
        seconds = sum(len(dev.audio(i)) for i in range(len(dev))) / dev.rate
        usual = sum(len(target or ()) for target in dev.targets) / seconds
        spoken = fitted.history[-1].get("tokens_per_s", usual) if fitted.history else usual
        if spoken < usual / 2:
            self.progress.warn(
                f"the teacher writes {spoken:.2f} tokens per second, transcripts have {usual:.2f}: "
                "it is falling silent; train the first stage longer"
            )

    def _keep(self, folder: Path) -> Any:
        content = {
            "objective": self.method.to_dict(),
            "training": self.options.to_dict(),
            "data": self.sets.fingerprint,
        }

        def keep(model: Acoustic, entry: dict[str, float]) -> None:
            numbers = {name: value for name, value in entry.items() if value == value}
            save_model(
                folder / "best.safetensors", model, self.sets.options, self.sets.tokens,
                {**content, "metrics": numbers},
            )  # fmt: skip

        return keep

    def summary(self, seconds: float) -> Result:
        """Score the kept model on the held-out audio, beside the supervised stage."""
        trained: Trained = open_trained(self.weights, self.runtime.device)
        errors = score_greedy(trained.model, self.sets.dev)
        rows = []
        metrics: dict[str, Any] = {"dev": {"error_rate": errors.rate, "tokens": errors.length}}
        if self.config.method != "supervised":
            metrics["seed"] = {"error_rate": self.seed_rate}
            rows.append(("supervised stage", f"{100 * self.seed_rate:.2f}"))
        rows.append((self.config.method, f"{100 * errors.rate:.2f}"))
        counts = {
            "labelled": len(self.sets.labelled),
            "unlabelled": len(self.sets.unlabelled),
            "held out": len(self.sets.dev),
        }
        said = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        return Result(
            inputs={"labelled": str(self.config.labelled), "utterances": counts},
            outputs={"run": str(self.folder), "weights": str(self.weights)},
            metrics=metrics,
            tables=(Table("Token error rate on held-out audio, %", ("model", "rate"), rows),),
            notes=(
                f"{said} utterances; {seconds:.0f} s",
                "the held-out audio chose the weights; score others with: "
                f"mlkit eval transcribe DATA --weights {self.weights}",
            ),
        )


def load_body(model: Acoustic, path: Path) -> None:
    """Copy a state dict into all of a network but its last layer.

    Names may start with "network." or not (torchaudio's files do not). Raises `CheckpointError`
    when less than half of the network is there.
    """
    own = model.state_dict()
    found = {}
    for name, tensor in read_state_dict(path).items():
        for key in (name, f"network.{name}", f"network.encoder.{name}"):
            last = key.startswith(("head.", "network.aux."))
            if key in own and own[key].shape == tensor.shape and not last:
                found[key] = tensor
    if 2 * len(found) < len(own):
        raise CheckpointError(
            f"{path} fits {len(found)} of {len(own)} tensors of the network",
            "check --model, --width, --layers and --heads",
        )
    model.load_state_dict(found, strict=False)
