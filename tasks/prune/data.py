"""Images as model inputs, labelled or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image as pillow
from torch import Tensor

from ...core.errors import DataError
from ...core.inputs import InputSpec, fit_picture, read_input
from ...core.labelled import list_labelled
from ...core.media import batched, find_images, read_idx, read_image
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from .config import CheckConfig


@dataclass(frozen=True)
class Labelled:
    """Images and their class numbers; `images` are paths, or levels (N, C, H, W) uint8."""

    images: Sequence[Path] | Tensor
    labels: Tensor
    classes: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> Labelled:
        """Return the first `count` images (all when 0)."""
        count = count or len(self)
        return Labelled(self.images[:count], self.labels[:count], self.classes)

    def batches(self, spec: InputSpec, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield model inputs (n, C, H, W) and labels (n,), `size` at a time."""
        for places in batched(range(len(self)), size):
            part = self.images[places[0] : places[-1] + 1]
            yield to_inputs(part, spec), self.labels[places[0] : places[-1] + 1]


def to_inputs(images: Sequence[Path] | Tensor, spec: InputSpec) -> Tensor:
    """Return normalised inputs (N, C, size, size) as the model wants them."""
    if isinstance(images, Tensor):
        return spec.normalise(_fit_levels(images, spec).float() / 255)
    return spec.normalise(torch.stack([read_input(path, spec) for path in images]))


def _fit_levels(images: Tensor, spec: InputSpec) -> Tensor:
    if images.shape[1:] == (spec.channels, spec.size, spec.size):
        return images
    modes = ["L" if len(image) == 1 else "RGB" for image in images]
    arrays = [image.permute(1, 2, 0).numpy() for image in images]
    pictures = [
        pillow.fromarray(array[..., 0] if mode == "L" else array)
        for array, mode in zip(arrays, modes, strict=True)
    ]
    return torch.stack([(fit_picture(picture, spec) * 255).round().byte() for picture in pictures])


def open_labelled(source: Path, labels: Path | None = None, split: str = "test") -> Labelled:
    """Return a folder of class folders, of IDX files (`split`), or of files named in a table.

    The table is `source` itself (columns path and label), or `labels` names files of the folder
    `source` and their class numbers. Raises `DataError` when it is none of these.
    """
    if labels is not None:
        return _from_table(source, labels)
    prefix = {"train": "train", "test": "t10k"}[split]
    packed = sorted(source.glob(f"{prefix}-images-idx3-ubyte*")) if source.is_dir() else []
    if packed:
        images = read_idx(packed[0])
        numbers = read_idx(Path(str(packed[0]).replace("images-idx3", "labels-idx1")))
        if len(images) != len(numbers):
            raise DataError(f"{packed[0]} has {len(images)} images, but {len(numbers)} labels")
        classes = [str(i) for i in range(int(numbers.max()) + 1)]
        return Labelled(
            torch.from_numpy(images.copy()).unsqueeze(1),
            torch.from_numpy(numbers.astype(np.int64)),
            classes,
        )
    found = list_labelled(source)
    return Labelled(found.paths, torch.tensor(found.labels), found.classes)


def _from_table(folder: Path, table: Path) -> Labelled:
    """Read a tab-separated table with the columns `file` and `index` (or `*_index`)."""
    try:
        header, *rows = [line.split("\t") for line in table.read_text().splitlines()]
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"cannot read {table}: {error}", "check --labels") from error
    index = next((i for i, name in enumerate(header) if name.endswith("index")), None)
    if "file" not in header or index is None:
        raise DataError(f"{table} has the columns {header}, not 'file' and 'index'")
    try:
        numbers = [int(row[index]) for row in rows]
        paths = [folder / row[header.index("file")] for row in rows]
    except (ValueError, IndexError) as error:
        raise DataError(f"{table}: {error}", "each row needs a file and a class number") from error
    return Labelled(paths, torch.tensor(numbers), [str(i) for i in range(max(numbers) + 1)])


def embedded_test_images() -> Labelled:
    """Return the 1,000 Fashion-MNIST test images that come with the embedded network."""
    from safetensors.torch import load_file

    tensors = load_file(str(files(__package__) / "weights" / "fashion_test.safetensors"))
    return Labelled(tensors["images"], tensors["labels"].long(), FASHION_CLASSES)


FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read_unlabelled(folder: Path, spec: InputSpec, limit: int, progress: Progress) -> Tensor:
    """Return inputs (N, C, H, W) from up to `limit` images below `folder`, spread evenly.

    A broken file is skipped with a warning. Raises `DataError` when none can be read.
    """
    paths = find_images(folder)
    chosen = np.linspace(0, len(paths) - 1, min(limit, len(paths))).round().astype(int).tolist()
    rest = sorted(set(range(len(paths))) - set(chosen))  # take the places of broken ones
    inputs: list[Tensor] = []
    broken: list[str] = []
    with progress.task("reading images", min(limit, len(paths))) as task:
        for place in (*chosen, *rest):
            if len(inputs) == limit:
                break
            try:
                inputs.append(read_input(paths[place], spec))
            except DataError as error:
                broken.append(error.message)
            task.advance()
    if broken:
        progress.warn(f"skipped {len(broken)} broken images; the first: {broken[0]}")
    if not inputs:
        raise DataError(f"none of the images in {folder} can be read", "check --images")
    return spec.normalise(torch.stack(inputs))


def check(config: CheckConfig, progress: Progress | None = None) -> Result:
    """Read every image once and report classes, counts and broken files (as failures)."""
    progress = progress or Silent()
    split = "train" if list(config.data.glob("train-images-idx3-ubyte*")) else "test"
    data = open_labelled(config.data, split=split)
    counts = torch.bincount(data.labels, minlength=len(data.classes)).tolist()
    failures: dict[str, str] = {}
    sizes: dict[str, int] = {}
    with progress.task("reading images", len(data)) as task:
        for image in data.images:
            if isinstance(image, Tensor):
                size = "x".join(str(side) for side in reversed(image.shape[1:]))
            else:
                try:
                    size = "x".join(str(side) for side in read_image(image).size)
                except DataError as error:
                    failures[str(image)] = error.message
                    continue
            sizes[size] = sizes.get(size, 0) + 1
            task.advance()
    rows = [(name, str(count)) for name, count in zip(data.classes, counts, strict=True)]
    notes = [f"{len(data)} images, {len(data.classes)} classes, {len(sizes)} sizes"]
    notes += [f"only {count} images of {name}" for name, count in rows if int(count) < 10]
    return Result(
        inputs={"data": str(config.data)},
        metrics={
            "images": len(data),
            "classes": dict(zip(data.classes, counts, strict=True)),
            "sizes": dict(sorted(sizes.items(), key=lambda item: -item[1])[:20]),
        },
        tables=(Table("Classes", ("class", "images"), rows),),
        notes=tuple(notes),
        failures=failures,
    )
