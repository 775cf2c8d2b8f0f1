"""Experiments of `transcribe`: known label noise, the semi-supervised arms, and confidences."""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlkit.core.options import RunOptions
from mlkit.core.runtime import Runtime, start, stream
from mlkit.core.training import Objective, fit
from mlkit.tasks.transcribe.confidence import auroc
from mlkit.tasks.transcribe.config import (
    MethodOptions,
    ModelOptions,
    StageOptions,
    TranscribeTrainOptions,
)
from mlkit.tasks.transcribe.data import Corpus, Speech
from mlkit.tasks.transcribe.doubt import Doubt, correctness
from mlkit.tasks.transcribe.greedy import greedy
from mlkit.tasks.transcribe.lattice import Labels
from mlkit.tasks.transcribe.losses import generalized_ctc_loss, star_ctc_loss
from mlkit.tasks.transcribe.model import Acoustic, build
from mlkit.tasks.transcribe.objective import mean_of_finite, transcript
from mlkit.tasks.transcribe.stages import score_greedy, train_pseudo, train_supervised
from mlkit.tasks.transcribe.synth import DIGITS, RATE, Recordings
from mlkit.tasks.transcribe.tokens import Tokens

from .__main__ import spread

TOKENS = Tokens("word", DIGITS)
NETWORK = ModelOptions(rate=RATE, mel_bins=24)
NOISE = 0.002
# Shorter than the defaults: every arm has three seeds.
TRAINING = TranscribeTrainOptions(steps=600, save_every=75)
STAGE = StageOptions(pseudo_steps=300)
NOISE_STEPS = 500


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def _recordings(data: Path) -> Path:
    folder = data / "speech" / "recordings"
    return folder if folder.is_dir() else data / "recordings"


def _corpus(folder: Path, indices: range, count: int, seed: int, key: int, **who: Any) -> Corpus:
    made = Recordings(folder, indices, **who).join(count, stream(seed, 50, key), NOISE)
    return Corpus(made, TOKENS, RATE)


def _collect(values: dict[str, Any], seed: int, arm: str, found: dict[str, float]) -> None:
    for name, value in found.items():
        values.setdefault(arm, {}).setdefault(name, []).append(value)
    _say(json.dumps([seed, arm, {name: round(value, 4) for name, value in found.items()}]))


def _spread(values: dict[str, Any]) -> dict[str, Any]:
    return {arm: {name: spread(v) for name, v in found.items()} for arm, found in values.items()}


# --- N: labels with known noise ---


NOISE_ARMS = (
    ("CTC on noisy labels", "plain", 0.4),
    ("generalized, true flags", "flags", 0.4),
    ("generalized, flags from the posterior of model 1", "doubt", 0.4),
    ("star (sum), true flags", "star", 0.4),
    ("star (mean), true flags", "star-mean", 0.4),
    ("CTC on clean labels", "plain", 0.0),
)


class Noisy(Corpus):
    """Transcripts in which a share of the tokens is replaced; knows which."""

    def __init__(self, clean: Corpus, share: float, seed: int) -> None:
        super().__init__(clean.utterances, TOKENS, RATE)
        generator = stream(seed, 51)
        self.clean = [list(target or []) for target in self.targets]
        for target in self.targets:
            for place, token in enumerate(target or ()):
                if torch.rand((), generator=generator) < share:
                    other = int(torch.randint(1, len(DIGITS), (1,), generator=generator))
                    target[place] = other + (other >= token)  # type: ignore[index]
        self.flags = [
            [a != b for a, b in zip(one, target or [], strict=True)]
            for one, target in zip(self.clean, self.targets, strict=True)
        ]

    def fetch(self, indices: Tensor, generator: torch.Generator) -> Any:
        chosen = indices.tolist()
        speech = self.batch(chosen)
        flags = torch.zeros_like(speech.tokens, dtype=torch.bool)
        for row, index in enumerate(chosen):
            flags[row, : len(self.flags[index])] = torch.tensor(self.flags[index])
        return {"speech": list(speech), "flags": flags}


class WithFlags(Objective):
    """CTC from given labels and flags."""

    def __init__(self, model: Acoustic, how: str) -> None:
        super().__init__()
        self.model, self.how = model, how

    def forward(self, batch: Any) -> dict[str, Any]:
        speech = Speech(*batch["speech"])
        log_probs, frames = self.model(speech.audio, speech.samples, 0.5)
        plain = transcript(speech, frames)
        labels = Labels(plain.tokens, batch["flags"], frames, plain.lengths)
        if self.how == "plain":
            labels = plain
        loss = star_ctc_loss if self.how.startswith("star") else generalized_ctc_loss
        if self.how == "star-mean":
            return {"loss": mean_of_finite(star_ctc_loss(log_probs, labels, mean=True))}
        return {"loss": mean_of_finite(loss(log_probs, labels))}


def _fit_noisy(noisy: Noisy, how: str, seed: int, runtime: Runtime) -> Acoustic:
    torch.manual_seed(seed)
    model = build(NETWORK, len(TOKENS))
    options = TRAINING.model_copy(update={"steps": NOISE_STEPS, "save_every": NOISE_STEPS})
    fit(WithFlags(model, how), noisy, options, runtime, method="transcribe")
    return model.eval()


@torch.no_grad()
def _doubt_labels(model: Acoustic, noisy: Noisy) -> None:
    """Flag given labels by the posterior of model 1, at the known rate of errors."""
    from mlkit.tasks.transcribe.confidence import posterior_confidence

    found: dict[int, list[float]] = {}
    for indices in noisy.batches():
        speech = noisy.batch(indices)
        log_probs, frames = model(speech.audio, speech.samples)
        values = posterior_confidence(log_probs, transcript(speech, frames))
        for index, row, length in zip(indices, values.tolist(), speech.lengths, strict=True):
            found[index] = row[: int(length)]
    pool = torch.tensor([value for row in found.values() for value in row])
    tau = float(pool.quantile(0.4))
    noisy.flags = [[value < tau for value in found[i]] for i in range(len(noisy))]


def noise(data: Path, seeds: int) -> dict[str, Any]:
    """Known label noise: 300 strings, 40 % of the digits replaced, 500 steps from scratch."""
    folder = _recordings(data)
    values: dict[str, Any] = {}
    for seed in range(seeds):
        runtime = start(RunOptions(seed=seed, device="cpu"))
        clean = _corpus(folder, range(9, 50), 300, seed, 0)
        test = _corpus(folder, range(5), 150, seed, 1)
        first = None
        for arm, how, share in NOISE_ARMS:
            noisy = Noisy(clean, share, seed)
            if how == "doubt":
                assert first is not None
                _doubt_labels(first, noisy)
            model = _fit_noisy(noisy, how, seed, runtime)
            if arm == "CTC on noisy labels":
                first = model
            _collect(values, seed, arm, {"WER": 100 * score_greedy(model, test).rate})
    return _spread(values)


# --- S: semi-supervised ---

DOUBT: dict[str, Any] = {"method": "apl"}
ARMS: dict[str, dict[str, Any]] = {
    "supervised longer": {"method": "supervised"},
    "pl": {"method": "pl"},
    "filter": {"method": "filter"},
    "mask-token": {"method": "mask-token"},
    "apl": DOUBT,
    "oracle flags": {"method": "oracle-flags"},
    "oracle labels": {"method": "oracle-labels"},
}
DETECTORS: dict[str, dict[str, Any]] = {
    "apl, posterior": {**DOUBT, "confidence": "posterior"},
    "apl, perturbed": {**DOUBT, "confidence": "perturbed"},
    "apl, agreement": {**DOUBT, "confidence": "agreement"},
    "apl, fused": {**DOUBT, "confidence": "fused"},
    "apl, fused, soft": {**DOUBT, "confidence": "fused", "soft": True},
    "apl, perturbed, rate": {**DOUBT, "confidence": "perturbed", "threshold": "rate"},
    "apl, max, rate": {**DOUBT, "threshold": "rate"},
    "apl, max, F1": {**DOUBT, "beta": 1.0},
    "apl, mean, F1": {**DOUBT, "confidence": "mean", "beta": 1.0},
    "apl, max, tau 0.8": {**DOUBT, "threshold": "0.8"},
    "apl, max, tau 0.95": {**DOUBT, "threshold": "0.95"},
    "apl, max, tau 0.99": {**DOUBT, "threshold": "0.99"},
    "apl, skip -2": {**DOUBT, "skip": -2.0},
    "apl, star": {**DOUBT, "alternatives": "star"},
    "apl, topk:3": {**DOUBT, "alternatives": "topk:3"},
}


def _sets(folder: Path, seed: int) -> dict[str, Corpus]:
    return {
        "labelled": _corpus(folder, range(5, 7), 60, seed, 2),
        "dev": _corpus(folder, range(7, 9), 60, seed, 3),
        "unlabelled": _corpus(folder, range(9, 50), 400, seed, 4),
        "test": _corpus(folder, range(5), 150, seed, 5),
    }


def _seed_model(sets: dict[str, Corpus], seed: int, runtime: Runtime, **options: Any) -> Acoustic:
    torch.manual_seed(seed)
    model = build(NETWORK, len(TOKENS))
    chosen = MethodOptions(method="supervised", **options)
    # The last weights, not the best on dev: dev is the proxy, and must not have chosen them.
    train_supervised(model, sets["labelled"], None, chosen, TRAINING, runtime)
    return model


def _arm(
    seed_model: Acoustic, sets: dict[str, Corpus], options: MethodOptions, runtime: Runtime
) -> dict[str, float]:
    begin = time.process_time()
    torch.manual_seed(runtime.seed)
    model = copy.deepcopy(seed_model)
    objective, fitted = train_pseudo(
        model, sets["labelled"], sets["unlabelled"], sets["dev"], options, STAGE, TRAINING, runtime
    )
    last = fitted.history[-1]
    found = {
        "teacher WER": 100 * score_greedy(objective.teacher, sets["test"]).rate,
        "chosen WER": 100 * score_greedy(model, sets["test"]).rate,
        "cpu s": time.process_time() - begin,
    }
    for name in ("flagged", "kept", "precision", "recall", "wrong", "tau"):
        if name in last and last[name] == last[name]:
            found[name] = last[name]
    return found


def _semi(data: Path, seeds: int, arms: dict[str, dict[str, Any]], **first: Any) -> dict[str, Any]:
    folder = _recordings(data)
    values: dict[str, Any] = {}
    for seed in range(seeds):
        runtime = start(RunOptions(seed=seed, device="cpu"))
        sets = _sets(folder, seed)
        seed_model = _seed_model(sets, seed, runtime)
        rate = 100 * score_greedy(seed_model, sets["test"]).rate
        _collect(values, seed, "seed", {"teacher WER": rate})
        for arm, options in arms.items():
            if arm not in os.environ.get("ARMS", arm).split(";"):
                continue  # run as a job of its own
            found = _arm(seed_model, sets, MethodOptions(**options), runtime)
            _collect(values, seed, arm, found)
    return _spread(values)


def semi(data: Path, seeds: int) -> dict[str, Any]:
    """60 labelled strings, 60 as proxy, 400 unlabelled; every arm from one seed model."""
    return _semi(data, seeds, ARMS)


def detectors(data: Path, seeds: int) -> dict[str, Any]:
    """Other confidences, thresholds and alternatives for apl, on the same sets."""
    return _semi(data, seeds, DETECTORS)


# --- C: confidences ---


CONTRASTS: dict[str, dict[str, Any]] = {
    "without contrastive loss": {"contrastive": 0.0},
    "sequence form, 0.3": {"contrastive": 0.3},
    "token form, 0.3": {"contrastive": 0.3, "contrast": "token"},
}


@torch.no_grad()
def _confidences(model: Acoustic, sets: dict[str, Corpus]) -> dict[str, float]:
    """AUROC of every confidence for the tokens that a model writes on the unlabelled set."""
    model.eval()
    fused = Doubt(MethodOptions(confidence="fused"), with_student=False)
    fused.retune(model, None, [sets["dev"].batch(p) for p in sets["dev"].batches()], [])
    scores: dict[str, list[Any]] = {}
    correct = []
    for part in sets["unlabelled"].batches():
        speech = sets["unlabelled"].batch(part)
        log_probs, frames = model(speech.audio, speech.samples)
        decoded = greedy(log_probs, frames)
        found = fused.look(model, None, speech, log_probs, frames, decoded)
        found |= {"geo": decoded.runs["geo"], "fused": fused.judge(found)}
        for name, value in found.items():
            scores.setdefault(name, []).append(value[decoded.live])
        correct.append(correctness(decoded, speech)[decoded.live])
    right = torch.cat(correct)
    result = {f"AUROC {name}": auroc(torch.cat(v), right) for name, v in scores.items()}
    return {**result, "wrong tokens %": 100 * float((~right).double().mean())}


def confidence(data: Path, seeds: int) -> dict[str, Any]:
    """AUROC of every confidence, with and without the contrastive loss, at equal steps."""
    folder = _recordings(data)
    values: dict[str, Any] = {}
    for seed in range(seeds):
        runtime = start(RunOptions(seed=seed, device="cpu"))
        sets = _sets(folder, seed)
        for arm, options in CONTRASTS.items():
            model = _seed_model(sets, seed, runtime, **options)
            found = _confidences(model, sets)
            found["WER"] = 100 * score_greedy(model, sets["test"]).rate
            _collect(values, seed, arm, found)
    return _spread(values)


def shift(data: Path, seeds: int) -> dict[str, Any]:
    """Labels from two speakers, unlabelled and test audio from four others."""
    folder = _recordings(data)
    names = sorted({path.stem.split("_")[1] for path in folder.glob("*.wav")})
    values: dict[str, Any] = {}
    for seed in range(seeds):
        runtime = start(RunOptions(seed=seed, device="cpu"))
        known, new = names[:2], names[2:]
        sets = {
            "labelled": _corpus(folder, range(5, 25), 60, seed, 2, speakers=known),
            "dev": _corpus(folder, range(25, 50), 60, seed, 3, speakers=known),
            "unlabelled": _corpus(folder, range(9, 50), 400, seed, 4, speakers=new),
            "test": _corpus(folder, range(5), 150, seed, 5, speakers=new),
        }
        seed_model = _seed_model(sets, seed, runtime)
        rate = 100 * score_greedy(seed_model, sets["test"]).rate
        _collect(values, seed, "seed", {"teacher WER": rate})
        for arm in ("pl", "filter", "apl", "apl, max, rate", "apl, fused", "apl, fused, soft"):
            options = MethodOptions(**(ARMS | DETECTORS)[arm])
            _collect(values, seed, arm, _arm(seed_model, sets, options, runtime))
    return _spread(values)
