"""The demo on three photos, and the export of the features to other run times."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from ...core.export import export_network
from ...core.files import replacing
from ...core.options import RunOptions
from ...core.progress import Progress
from ...core.report import write_report
from ...core.results import Result
from .apply import classify
from .backbone import append_one
from .checkpoint import open_trained
from .config import ZeroshotConfig

PHOTOS = ("cat.jpg", "coffee.jpg", "rocket.jpg")
# None of these is among the classifier's 1000 classes.
CLASSES = (
    *("n02121808", "n02083346", "n02118333", "n02391994", "n02503517", "n02374451"),  # animals
    *("n02411705", "n07929519", "n03147509", "n04099429", "n02691156", "n03790512"),
    *("n04194289", "n02924116", "n04335209", "n03841666"),
)


def demo(out: Path, overwrite: bool, run_options: RunOptions, progress: Progress) -> Result:
    """Classify three photos into unseen classes, explain one class; a report in `out`."""
    photos = [_copy(name, out) for name in PHOTOS]
    picture = out / "answers.png"
    config = ZeroshotConfig(
        inputs=tuple(photos), among=",".join(CLASSES), plot=picture, overwrite=True
    )
    answered = classify(config, run_options, progress)
    explained = classify(ZeroshotConfig(explain="n02121808"), run_options, progress)
    result = Result(
        inputs={"photos": list(PHOTOS)},
        outputs={"report": str(out / "report.html"), "picture": str(picture)},
        metrics={**answered.metrics, "explained": explained.metrics},
        tables=(*answered.tables, *explained.tables),
        notes=("No class in the list was trained on; the photos are in the public domain or CC0.",),
    )
    write_report(
        out / "report.html",
        "mlkit demo zeroshot",
        result,
        settings={"classes": " ".join(CLASSES)},
        command="mlkit demo zeroshot",
        pictures={"Photos and their best classes": picture},
    )
    return result


def _copy(name: str, folder: Path) -> Path:
    """Write an embedded photo into a folder, for the user to look at."""
    target = folder / name
    with replacing(target) as temporary:
        temporary.write_bytes((files(__package__) / "weights" / name).read_bytes())
    return target


class _Extended(nn.Module):
    """Features with a 1 behind: what predicted rows are multiplied with."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        """Return (n, P) for normalised inputs (n, C, H, W)."""
        return append_one(self.features(images))


def export(file: Path, out: Path, overwrite: bool, factory: str | None) -> Result:
    """Export the classifier's features: inputs (n, C, H, W) -> (n, P), to be multiplied by rows."""
    trained = open_trained(file, factory)
    spec = trained.backbone.recipe.input
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(2, spec.channels, spec.size, spec.size, generator=generator)
    network = _Extended(trained.backbone.features)
    difference = export_network(network, spec.normalise(example), out, overwrite)
    return Result(
        inputs={"model": str(file)},
        outputs={"model": str(out)},
        metrics={"relative_difference": difference, "bytes": out.stat().st_size},
        notes=(
            f"agrees with the original to {difference:.1e} of the largest output; scores are its "
            f"output times rows: mlkit data zeroshot-rows --weights {file} -o rows.safetensors",
        ),
    )
