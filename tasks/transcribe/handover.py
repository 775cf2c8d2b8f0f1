"""The demo, and the export of the network to other run times."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ...core.audio import read_audio
from ...core.errors import UsageError
from ...core.export import export_network
from ...core.files import check_writable
from ...core.options import BatchOptions, RunOptions
from ...core.progress import Progress
from ...core.report import new_figure, write_report
from ...core.results import Result
from .apply import transcribe
from .checkpoint import EMBEDDED, WEIGHTS, Trained, open_trained
from .config import TranscribeConfig
from .listen import Listener, Transcript
from .model import Acoustic, Tiny

SAMPLE = WEIGHTS / "sample.wav"
SECONDS = 3


def demo(out: Path, overwrite: bool, run_options: RunOptions, progress: Progress) -> Result:
    """Transcribe embedded recordings of digits, and show what was heard when, and how surely."""
    check_writable(out / "heard.png", overwrite)
    config = TranscribeConfig(audio=(SAMPLE,), out=out / "sample.json")
    result = transcribe(config, BatchOptions(overwrite=overwrite), run_options, progress)
    trained = open_trained(None)
    audio = read_audio(SAMPLE, trained.model.rate).samples
    transcript = Listener(trained, config).listen(audio, "sample")
    draw(out / "heard.png", trained, audio, transcript)
    result = Result(
        inputs=result.inputs,
        outputs={**result.outputs, "report": str(out / "report.html")},
        metrics=result.metrics,
        notes=(f"heard: {transcript.text}", *result.notes),
    )
    write_report(
        out / "report.html",
        "mlkit demo transcribe",
        result,
        settings={"recording": SAMPLE.name, "weights": EMBEDDED.name},
        command="mlkit demo transcribe",
        pictures={"Spectrum, and the words with their confidences": out / "heard.png"},
    )
    return result


def draw(path: Path, trained: Trained, audio: Tensor, transcript: Transcript) -> None:
    """Draw the log-mel picture of a recording with the words above the places they were heard."""
    from ...core.files import replacing

    model = trained.model
    assert isinstance(model, Tiny)
    frames, _ = model.mel(audio[None], torch.tensor([len(audio)]))
    figure = new_figure(9, 3.2)
    axes = figure.subplots()
    axes.imshow(
        frames[0].T.numpy(), origin="lower", aspect="auto", cmap="magma",
        extent=(0, transcript.seconds, 0, frames.shape[2]),
    )  # fmt: skip
    for word in transcript.words:
        middle = (word.start_s + word.end_s) / 2
        axes.axvspan(word.start_s, word.end_s, color="white", alpha=0.25)
        axes.text(middle, frames.shape[2] + 0.5, f"{word.text}\n{word.confidence:.2f}", ha="center")
    axes.set(xlabel="seconds", ylabel="mel band")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


class _Network(nn.Module):
    """A mel model behind its frames, for a fixed length: run times have no packed sequences."""

    def __init__(self, model: Tiny) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> Tensor:
        """Turn log-mel frames (B, F, D) into log probabilities (B, T, V)."""
        counts = torch.full((frames.shape[0],), frames.shape[1])
        x, _ = self.model.subsampling(frames, counts)
        return self.model.head(self.model.gru(x)[0]).log_softmax(2)


def export(file: Path, out: Path, overwrite: bool, factory: str | None) -> Result:
    """Export the network of a tiny model: log-mel frames (B, 300, D) to log probabilities.

    Raises `UsageError` for the large models, which torchaudio exports itself.
    """
    model: Acoustic = open_trained(file).model
    if not isinstance(model, Tiny):
        raise UsageError(f"{file}: only --model tiny is exported", "export it with torch.export")
    generator = torch.Generator().manual_seed(0)
    bins = model.subsampling.first.in_channels
    example = torch.randn(2, 100 * SECONDS, bins, generator=generator)
    difference = export_network(_Network(model).eval(), example, out, overwrite)
    return Result(
        inputs={"model": str(file)},
        outputs={"model": str(out)},
        metrics={"relative_difference": difference, "bytes": out.stat().st_size},
        notes=(
            f"agrees with the original to {difference:.1e} of the largest output; takes "
            "normalised log-mel frames (mlkit.tasks.transcribe.features.LogMel)",
        ),
    )
