"""Finding the labels that look wrong, in a folder of images or in another model's arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image as pillow

from ...core.errors import DataError
from ...core.files import check_writable, write_bytes
from ...core.media import read_image
from ...core.options import RunOptions, TrainOptions
from ...core.progress import Progress, Silent
from ...core.results import Result
from ...core.runtime import Runtime, start
from . import report
from .arrays import open_arrays
from .config import LabelnoiseConfig
from .data import Images, conflicts, open_images
from .guard import MUCH_FLAGGED, WEAK_AGREEMENT, Verdict, judge, unguarded
from .scoring import out_of_sample, scores, train_plain
from .selection import FEWEST, Selection, select
from .signals import Signals, compute

Array = NDArray[Any]
LEAST_STEPS = 300  # a network of fewer steps knows too little to doubt anybody
STREAM = Path("-")


@dataclass(frozen=True)
class Judged:
    """What is known of every sample: `probs` (N, K), `features` (N, d), and which network (N,)."""

    probs: Array
    features: Array
    labels: Array
    spaces: Array | None
    names: Sequence[str]
    classes: Sequence[str]


def find_noise(
    config: LabelnoiseConfig,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Rank labels by doubt, flag those that evidence speaks against, and write the report.

    Files of the user are read, never moved or changed. Raises `DataError` for unusable input.
    """
    progress = progress or Silent()
    for path in (config.out, config.html, config.summary, config.cleaned):
        if path is not None and path != STREAM:
            check_writable(path, config.overwrite)
    if config.copy_to is not None and config.copy_to.exists() and any(config.copy_to.iterdir()):
        raise DataError(f"{config.copy_to} is not empty", "name a new folder with --copy-to")
    if config.data is None:
        judged, images = _from_arrays(config), None
    else:
        images = open_images(config.data, config.image_size, progress)
        judged = look(images, config, start(run_options or RunOptions()), progress)
    signals = compute(judged.probs, judged.features, judged.labels, judged.spaces)
    selection = select(config.selector, signals, judged.probs)
    if config.guard:
        verdict = judge(signals, selection, judged.probs, config.min_evidence, config.max_flags)
    else:
        verdict = unguarded(signals, selection, config.max_flags)
    return _deliver(config, judged, images, signals, selection, verdict, progress)


def _from_arrays(config: LabelnoiseConfig) -> Judged:
    probs, features, labels, names = open_arrays(config)
    return Judged(probs, features, labels, None, range(len(labels)), names)  # type: ignore[arg-type]


def look(images: Images, config: LabelnoiseConfig, runtime: Runtime, progress: Progress) -> Judged:
    """Train networks on the images and let each judge those that it has not seen (`folds`)."""
    steps = config.epochs * max(1, len(images) // config.batch_size)
    if "epochs" not in config.model_fields_set:
        steps = max(steps, LEAST_STEPS)
    options = TrainOptions(steps=steps, lr=config.lr, batch_size=config.batch_size)
    labels = images.labels.numpy()
    if config.folds == 0:
        model = train_plain(images, config.network, options, runtime, progress)
        probs, features = scores(model, images.levels, runtime)
        return Judged(probs, features, labels, None, images.names, images.classes)
    probs, features, spaces = out_of_sample(
        images, config.network, config.folds, options, runtime, progress
    )
    return Judged(probs, features, labels, spaces, images.names, images.classes)


def _deliver(
    config: LabelnoiseConfig,
    judged: Judged,
    images: Images | None,
    signals: Signals,
    selection: Selection,
    verdict: Verdict,
    progress: Progress,
) -> Result:
    """Write what was asked for and tell what was found."""
    frame = report.report_frame(judged.names, judged.classes, signals, selection, verdict)
    summary = report.summarise(judged.classes, signals, selection, verdict)
    doubtful = conflicts(images) if images is not None else None
    for text in _warnings(summary, images, doubtful):
        progress.warn(text)
    table, data = report.class_table(summary), report.as_csv(frame)
    outputs: dict[str, str] = {}
    if config.out != STREAM:
        write_bytes(config.out, data)
        outputs["report"] = str(config.out)
    if config.html is not None and images is not None:
        report.write_sheet(config.html, frame, _pictures(images), table)
        outputs["page"] = str(config.html)
    if config.summary is not None:
        report.write_summary(config.summary, summary)
        outputs["summary"] = str(config.summary)
    if config.cleaned is not None:
        report.write_cleaned(config.cleaned, frame)
        outputs["cleaned"] = str(config.cleaned)
    if config.copy_to is not None:
        report.copy_flagged(config.copy_to, frame)
        outputs["copies"] = str(config.copy_to)
    return Result(
        inputs={
            "data": str(config.data or config.probs),
            "broken": images.broken if images else {},
        },
        outputs=outputs,
        metrics=summary,
        tables=(table,),
        notes=_notes(config, summary),
        stream=data if config.out == STREAM else None,
    )


def _pictures(images: Images) -> Callable[[str], pillow.Image]:
    """Return a function from a row's path to its image: the file, or what was decoded of it."""
    place = {name: i for i, name in enumerate(images.names)}

    def picture(name: str) -> pillow.Image:
        if Path(name).is_file():
            return read_image(name)
        return pillow.fromarray(images.levels[place[name]].permute(1, 2, 0).numpy())

    return picture


def _notes(config: LabelnoiseConfig, summary: dict[str, Any]) -> tuple[str, ...]:
    flagged, total = summary["flagged"], summary["images"]
    seen = "have seen" if config.data is not None and config.folds == 0 else "have not seen"
    who = "the networks agree with" if config.data is not None else "--probs agrees with"
    agreement = f"{who} {100 * summary['agreement']:.0f} % of the labels"
    agreement += f" that they {seen}" if config.data is not None else ""
    if flagged == 0:
        return ("no issues found", agreement)
    return (
        f"{flagged:,} of {total:,} labels look wrong ({100 * flagged / total:.1f} %)",
        agreement,
    )


def _warnings(summary: dict[str, Any], images: Images | None, doubtful: Any) -> list[str]:
    found = []
    if images is not None and images.broken:
        first = ", ".join(list(images.broken)[:5])
        found.append(f"{len(images.broken)} images cannot be read and were skipped: {first}")
    if doubtful is not None and len(doubtful):
        assert images is not None
        files = ", ".join(images.names[i] for i in doubtful["place"].head(4))
        groups = doubtful["group"].n_unique()
        found.append(f"{groups} pictures occur with different labels: {files}")
    classes = summary["classes"]
    small = [row["class"] for row in classes if row["images"] < FEWEST]
    if small:
        found.append(f"fewer than {FEWEST} images, not judged: {', '.join(small[:8])}")
    odd = [row["class"] for row in classes if row["images"] >= FEWEST > 0
           and row["estimated_noise"] > 0.5]  # fmt: skip
    if odd:
        found.append(f"more than half looks wrong; is the name right? {', '.join(odd[:8])}")
    if summary["agreement"] < WEAK_AGREEMENT or _all_flagged(classes):
        found.append(
            f"the network agrees with {100 * summary['agreement']:.0f} % of the labels: it or they "
            "are weak; raise --epochs or take a larger --network"
        )
    return found


def _all_flagged(classes: Sequence[dict[str, Any]]) -> bool:
    """Return True when every judged class is flagged for the larger part."""
    shares = [row["flagged"] / row["images"] for row in classes if row["images"] >= FEWEST]
    return bool(shares) and min(shares) > MUCH_FLAGGED
