"""What a model writes for unlabelled audio, token by token with its doubt."""

from __future__ import annotations

import json
from typing import Any

import torch

from ...core.batch import STREAM
from ...core.files import check_writable, write_text
from ...core.options import RunOptions
from ...core.progress import Progress, Silent
from ...core.results import Result
from ...core.runtime import Runtime, start
from .checkpoint import Trained, open_trained
from .config import PseudoConfig
from .data import Corpus, Utterance
from .doubt import Doubt
from .greedy import greedy, utterance_confidence
from .readers import need_audio, need_text, read_set
from .stages import SAMPLE, to


def pseudo_labels(
    config: PseudoConfig, run_options: RunOptions | None = None, progress: Progress | None = None
) -> Result:
    """Label audio; each line has text, and per token its confidence, times and whether doubted.

    The lines are a manifest: `mlkit train transcribe` reads them. Raises `DataError` when the
    audio or the proxy cannot be used.
    """
    progress = progress or Silent()
    if config.out != STREAM:
        check_writable(config.out, config.overwrite)
    utterances = read_set(config.data)
    need_audio(utterances, 0.04)
    runtime = start(run_options or RunOptions())
    trained = open_trained(config.weights, runtime.device)
    corpus = Corpus(utterances, trained.tokens, trained.model.rate, hide_text=True)
    doubt = Doubt(config, with_student=False).to(runtime.device)
    few_errors = _tune(config, doubt, trained, corpus, runtime)
    if few_errors:
        progress.warn("fewer than 3 errors on --proxy: the threshold is the 2 % quantile")
    lines: dict[int, dict[str, Any]] = {}
    with progress.task("labelling", len(corpus)) as task, torch.inference_mode():
        for part in corpus.batches():
            lines |= _label(doubt, trained, corpus, part, runtime)
            task.advance(len(part))
    ordered = [lines[i] for i in range(len(corpus))]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in ordered)
    tokens = [token for line in ordered for token in line["tokens"]]
    flagged = sum(token["doubted"] for token in tokens)
    metrics = {
        "utterances": len(ordered),
        "empty": sum(not line["tokens"] for line in ordered),
        "tokens": len(tokens),
        "doubted": flagged,
        "threshold": float(doubt.tau),
    }
    notes = (f"{flagged:,} of {len(tokens):,} tokens doubted; {trained.describe()}",)
    if config.out == STREAM:
        return Result(stream=text.encode(), notes=notes)
    write_text(config.out, text)
    return Result(
        inputs={"data": str(config.data), "weights": trained.name},
        outputs={"labels": str(config.out)},
        metrics=metrics,
        notes=notes,
    )


def _tune(
    config: PseudoConfig, doubt: Doubt, trained: Trained, corpus: Corpus, runtime: Runtime
) -> bool:
    """Find the threshold; returns whether the proxy had too few errors for that."""
    if config.proxy is None:
        doubt.tau.fill_(doubt.rule.value)
        return False
    spoken: list[Utterance] = read_set(config.proxy)
    need_text(spoken, config.proxy)
    need_audio(spoken, 0.04)
    proxy = Corpus(spoken, trained.tokens, corpus.rate)
    few = Corpus(corpus.utterances[:SAMPLE], trained.tokens, corpus.rate, hide_text=True)
    batches = [[to(c.batch(part), runtime.device) for part in c.batches()] for c in (proxy, few)]
    return doubt.retune(trained.model, None, *batches).fallback


def _label(
    doubt: Doubt, trained: Trained, corpus: Corpus, part: list[int], runtime: Runtime
) -> dict[int, dict[str, Any]]:
    speech = to(corpus.batch(part), runtime.device)
    log_probs, frames = trained.model(speech.audio, speech.samples)
    decoded = greedy(log_probs, frames)
    confidence = doubt.judge(doubt.look(trained.model, None, speech, log_probs, frames, decoded))
    whole = utterance_confidence(log_probs, frames)
    step = trained.model.stride_s
    found = {}
    for row, (index, numbers) in enumerate(zip(part, decoded.lists(), strict=True)):
        item = corpus.utterances[index]
        tokens = [
            {
                "token": trained.tokens.symbols[number - 1],
                "confidence": round(float(confidence[row, u]), 5),
                "doubted": bool(confidence[row, u] < doubt.tau),
                "start": round(float(decoded.starts[row, u]) * step, 3),
                "end": round(float(decoded.ends[row, u]) * step, 3),
            }
            for u, number in enumerate(numbers)
        ]
        found[index] = {
            "audio_filepath": str(item.path.resolve()) if item.path else "",
            "duration": round(int(speech.samples[row]) / corpus.rate, 4),
            "offset": item.start_s,
            "text": trained.tokens.decode(numbers),
            "confidence": round(float(whole[row]), 5),
            "tokens": tokens,
        }
    return found
