"""References: a photograph, a sentence, and the mask of what it means. JSON lines and REFER."""

from __future__ import annotations

import io
import json
import pickle
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import DataError
from ...core.files import write_text
from .config import SourceOptions
from .masks import AnyMask, MaskFile, Polygons, Runs, parse_mask

MAX_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Reference:
    """One sentence about one photograph. `mask` is None where nothing there is meant.

    `kind` groups references for scoring; `candidates` marks everything of the same sort.
    """

    image: Path
    expression: str
    mask: AnyMask | None
    id: str = ""
    split: str = ""
    kind: str = ""
    candidates: AnyMask | None = None


def open_references(path: Path, options: SourceOptions) -> list[Reference]:
    """Read a .jsonl file, or REFER's refs(...).p with its instances.

    Raises `DataError` when the file, a line of it or an image is missing or wrong.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {what}", "give a .jsonl file, or REFER's refs(...).p")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} is larger than {MAX_BYTES >> 30} GiB")
    if path.suffix in (".p", ".pkl", ".pickle"):
        references = list(_read_refer(path, options))
    else:
        references = list(_read_lines(path, options.images))
    if not references:
        raise DataError(f"{path} holds no references")
    missing = sorted({str(r.image) for r in references if not r.image.is_file()})
    if missing:
        raise DataError(
            f"{path}: {len(missing)} images are missing: {', '.join(missing[:5])}",
            "name their folder with --images",
        )
    return references


def _read_lines(path: Path, images: Path | None) -> Iterator[Reference]:
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text ({error})", "give JSON lines") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _parse_line(line, path, number, images)


def _parse_line(line: str, path: Path, number: int, images: Path | None) -> Reference:
    where, folder = f"{path} line {number}", path.parent
    try:
        values = json.loads(line)
        image, expression = Path(values["image"]), values["expression"]
        mask = values["mask"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{where}: {error if isinstance(error, ValueError) else f'no {error}'}",
            'a line is {"image": ..., "expression": ..., "mask": ...}',
        ) from error
    if not isinstance(expression, str) or not expression.strip():
        raise DataError(f"{where}: the expression is empty")
    candidates = values.get("candidates")
    return Reference(
        (images or folder) / image,
        expression,
        None if mask is None else parse_mask(mask, folder, where),
        str(values.get("id", number)),
        str(values.get("split", "")),
        str(values.get("kind", "")),
        None if candidates is None else parse_mask(candidates, folder, where),
    )


def write_references(path: Path, references: Sequence[Reference]) -> None:
    """Write JSON lines that `open_references` reads; image paths relative to the file."""
    lines = []
    for reference in references:
        values: dict[str, Any] = {
            "image": _relative(reference.image, path.parent),
            "expression": reference.expression,
            "mask": _describe(reference.mask, path.parent),
        }
        for name in ("id", "split", "kind"):
            if getattr(reference, name):
                values[name] = getattr(reference, name)
        if reference.candidates is not None:
            values["candidates"] = _describe(reference.candidates, path.parent)
        lines.append(json.dumps(values, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def _relative(image: Path, folder: Path) -> str:
    target, base = image.resolve(), folder.resolve()
    return str(target.relative_to(base) if target.is_relative_to(base) else target)


def _describe(mask: AnyMask | None, folder: Path) -> Any:
    match mask:
        case None:
            return None
        case MaskFile(path):
            return _relative(path, folder)
        case Runs(counts, size):
            return {"size": list(size), "counts": list(counts)}
        case Polygons(outlines):
            return [list(part) for part in outlines]


class _PlainUnpickler(pickle.Unpickler):
    """Reads containers, texts and numbers; whatever would import or call something is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants to import {module}.{name}")


def read_plain_pickle(path: Path) -> Any:
    """Return a pickle of plain containers, texts and numbers; nothing in it can run.

    Raises `DataError` for anything else.
    """
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="utf-8").load()
    except Exception as error:  # random bytes make the unpickler fail in many ways
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} is not a pickle of plain data ({reason})") from error


def _read_refer(path: Path, options: SourceOptions) -> Iterator[Reference]:
    """Yield the references of the REFER layout: refs(SPLITBY).p beside instances.json."""
    refs = read_plain_pickle(path)
    instances = options.instances or path.with_name("instances.json")
    document = read_json(instances)
    folder = options.images or path.parent / "images"
    try:
        annotations = {item["id"]: item for item in document["annotations"]}
        names = {item["id"]: item["file_name"] for item in document["images"]}
        sizes = {item["id"]: (item["height"], item["width"]) for item in document["images"]}
        for ref in refs:
            annotation = annotations[ref["ann_id"]]
            where = f"{instances} annotation {ref['ann_id']}"
            mask = parse_mask(annotation["segmentation"], folder, where)
            image = folder / names[ref["image_id"]]
            if isinstance(mask, Runs) and mask.size != sizes[ref["image_id"]]:
                raise DataError(f"{where}: the mask's size differs from its image's")
            for sentence in ref["sentences"]:
                name = f"{ref['ref_id']}-{sentence['sent_id']}"
                yield Reference(image, sentence["sent"], mask, name, ref["split"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} and {instances} do not fit: no {error}") from error


def read_json(path: Path) -> Any:
    """Return a JSON document. Raises `DataError` when it is missing, too large or damaged."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES >> 30} GiB")
        return json.loads(path.read_text())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "see --help") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error})") from error


def read_queries(path: Path) -> list[tuple[Path, str]]:
    """Return (image, sentence) of JSON lines; `-` is standard input. Raises `DataError`."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}", "give JSON lines") from error
    folder = Path() if str(path) == "-" else path.parent
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if line.strip():
                values = json.loads(line)
                found.append((folder / values["image"], str(values["expression"])))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} line {number}: {error}", 'a line is {"image": ..., "expression": ...}'
            ) from error
    if not found:
        raise DataError(f"{path} holds no queries")
    return found
