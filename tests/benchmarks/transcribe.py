"""Speed of `transcribe`: its loss beside torch's CTC and dense autograd, and recognition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from mlkit.core.audio import read_audio
from mlkit.tasks.transcribe.acceptor import acceptor_loss
from mlkit.tasks.transcribe.checkpoint import WEIGHTS, open_trained
from mlkit.tasks.transcribe.confidence import posterior_confidence
from mlkit.tasks.transcribe.config import DecodeOptions
from mlkit.tasks.transcribe.lattice import Labels
from mlkit.tasks.transcribe.listen import Listener
from mlkit.tasks.transcribe.losses import generalized_ctc_loss, star_ctc_loss

from .timing import cpu_seconds

SIZES = ((16, 100, 8, 11), (16, 200, 40, 29))  # utterances, frames, tokens, vocabulary
SHARES = (0.0, 0.05, 0.15, 0.5)


def _cpu_ms(function: Callable[[], Any], runs: int) -> float:
    """Return the CPU time of the best of several calls after one to warm up, in ms."""
    function()
    return 1e3 * cpu_seconds(function, runs)


def compare() -> list[dict[str, Any]]:
    """Forward and backward passes of the losses, the posterior scan, and real-time factors."""
    torch.set_num_threads(1)
    rows = [_losses(*size, share) for size in SIZES for share in SHARES]
    return [*rows, *(_posterior(*size) for size in SIZES), *_recognition()]


def _batch(
    batch: int, frames: int, length: int, vocabulary: int, share: float
) -> tuple[torch.Tensor, Labels]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(frames, batch, vocabulary, generator=generator, requires_grad=True)
    tokens = torch.randint(1, vocabulary, (batch, length), generator=generator)
    flags = torch.rand(batch, length, generator=generator) < share
    counts = (torch.full((batch,), frames), torch.full((batch,), length))
    return logits, Labels(tokens, flags, *counts)


def _losses(batch: int, frames: int, length: int, vocabulary: int, share: float) -> dict[str, Any]:
    logits, labels = _batch(batch, frames, length, vocabulary, share)

    def timed(loss: Callable[[torch.Tensor], torch.Tensor], runs: int) -> float:
        return _cpu_ms(lambda: loss(logits.log_softmax(2)).sum().backward(), runs)

    native = timed(
        lambda lp: F.ctc_loss(lp, labels.tokens, labels.frames, labels.lengths, reduction="none"), 5
    )
    ours = timed(lambda lp: generalized_ctc_loss(lp, labels), 5)
    star = timed(lambda lp: star_ctc_loss(lp, labels), 5)
    row = {
        "loss": f"B{batch} T{frames} U{length} V{vocabulary}",
        "flags %": round(100 * share),
        "flagged utterances": int(labels.flags.any(1).sum()),
        "F.ctc_loss ms": round(native, 1),
        "generalized ms": round(ours, 1),
        "times native": round(ours / native, 1),
        "star ms": round(star, 1),
    }
    if share == 0.15:  # seconds a call
        dense = timed(lambda lp: acceptor_loss(lp, labels), 1)
        row["dense autograd ms"] = round(dense, 1)
    return row


def _posterior(batch: int, frames: int, length: int, vocabulary: int) -> dict[str, Any]:
    logits, labels = _batch(batch, frames, length, vocabulary, 0.0)
    lp = logits.detach().log_softmax(2)
    return {
        "posterior of all tokens": f"B{batch} T{frames} U{length} V{vocabulary}",
        "ms": round(_cpu_ms(lambda: posterior_confidence(lp, labels), 3), 1),
    }


def _recognition() -> list[dict[str, Any]]:
    """Real-time factor of the embedded model on a minute of digits, CPU seconds per second."""
    trained = open_trained(None)
    one = read_audio(WEIGHTS / "sample.wav", trained.model.rate).samples
    audio = torch.cat([one] * round(60 * trained.model.rate / len(one)))
    seconds = len(audio) / trained.model.rate
    rows = []
    for name, options in (
        ("greedy", DecodeOptions()),
        ("beam 20", DecodeOptions(decode="beam", beam=20)),
    ):
        listener = Listener(trained, options)
        spent = _cpu_ms(lambda chosen=listener: chosen.listen(audio, "sample"), 2)  # type: ignore[misc]
        rows.append({"recognition": name, "real-time factor": round(spent / 1e3 / seconds, 4)})
    return rows
