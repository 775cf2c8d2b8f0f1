"""The two stages of training: on transcripts, then with pseudo-labels; the better model is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...core.edits import Errors, count_errors
from ...core.runtime import Runtime
from ...core.training import Fitted, fit
from .config import MethodOptions, StageOptions, TranscribeTrainOptions
from .data import Corpus, MixedSource, Speech
from .doubt import still
from .greedy import greedy
from .model import Acoustic
from .objective import PseudoLabelled, Supervised

SAMPLE = 64  # unlabelled utterances whose confidences the rule "rate" looks at
Keep = Callable[[Acoustic, dict[str, float]], None]


def to(speech: Speech, device: torch.device) -> Speech:
    """Return a batch on a device."""
    return Speech(*(part.to(device) for part in speech))


@torch.no_grad()
def score_greedy(model: Acoustic, corpus: Corpus) -> Errors:
    """Return the summed token errors of a model on transcribed utterances."""
    device = next(model.parameters()).device
    total = Errors()
    with still(model):
        for indices in corpus.batches():
            speech = to(corpus.batch(indices), device)
            written = greedy(*model(speech.audio, speech.samples)).lists()
            for index, tokens in zip(indices, written, strict=True):
                total += count_errors(corpus.targets[index] or [], tokens)
    return total


def train_supervised(
    model: Acoustic,
    labelled: Corpus,
    dev: Corpus | None,
    options: MethodOptions,
    training: TranscribeTrainOptions,
    runtime: Runtime,
    *,
    save_best: Keep | None = None,
    **engine: Any,
) -> Fitted:
    """Train on transcripts and leave the weights of the lowest token error rate on `dev`."""
    objective = Supervised(model, options, training.steps or 1, parts=training.accumulate)

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        assert isinstance(candidate, Acoustic)
        assert dev is not None
        rate = score_greedy(candidate, dev).rate
        return {"score": -rate, "error_rate": rate}

    def keep(candidate: nn.Module, entry: dict[str, float]) -> None:
        assert isinstance(candidate, Acoustic)
        if save_best is not None:
            save_best(candidate, entry)

    return fit(
        objective, labelled, training, runtime, method="transcribe",
        evaluate=evaluate if dev is not None else None, save_best=keep, **engine,
    )  # fmt: skip


def train_pseudo(
    model: Acoustic,
    labelled: Corpus,
    unlabelled: Corpus,
    dev: Corpus,
    options: MethodOptions,
    stage: StageOptions,
    training: TranscribeTrainOptions,
    runtime: Runtime,
    *,
    save_best: Keep | None = None,
    **engine: Any,
) -> tuple[PseudoLabelled, Fitted]:
    """Go on from a trained model with pseudo-labels; `model` ends as the better of the two.

    `dev` is the proxy of the threshold and chooses between student and teacher, step by step.
    Returns the objective, whose `teacher` and `model` are as the last step left them but for
    `model`, and the history.
    """
    proxy = [to(dev.batch(part), runtime.device) for part in dev.batches()]
    few = Corpus(unlabelled.utterances[:SAMPLE], _no_tokens(), unlabelled.rate, hide_text=True)
    sample = [to(few.batch(part), runtime.device) for part in few.batches()]
    model.to(runtime.device)
    objective = PseudoLabelled(model, options, proxy, sample, training.accumulate)
    best: dict[str, Any] = {}

    def evaluate(student: nn.Module) -> dict[str, float]:
        objective.follow()
        assert isinstance(student, Acoustic)
        rates = {
            "student": score_greedy(student, dev).rate,
            "teacher": score_greedy(objective.teacher, dev).rate,
        }
        return {"score": -min(rates.values()), **rates}

    def keep(student: nn.Module, entry: dict[str, float]) -> None:
        # Equal rates: the average of many steps is the steadier one.
        better = objective.teacher if entry["teacher"] <= entry["student"] else objective.model
        best["weights"] = copy.deepcopy(better.state_dict())
        if save_best is not None:
            save_best(better, entry)

    settings = training.model_copy(
        update={"steps": stage.pseudo_steps, "lr": stage.pseudo_lr, "warmup": 0}
    )
    source = MixedSource(labelled, unlabelled, stage.labelled_batch)
    fitted = fit(
        objective, source, settings, runtime, method="transcribe",
        evaluate=evaluate, save_best=keep, title=options.method, **engine,
    )  # fmt: skip
    if "weights" in best:  # a resumed run may have found its best before
        model.load_state_dict(best["weights"])
    return objective, fitted


def _no_tokens() -> Any:
    from .tokens import Tokens

    return Tokens("word", ())
