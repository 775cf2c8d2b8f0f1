"""A generated log of users with several interests each, with titles and categories.

Every item belongs to one category. A user likes two to four categories, stays with one for a
few interactions, then turns to another; inside a category popular items are taken more often,
and the next item is likely to be the next of the same series.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ...core.files import check_writable, replacing
from ...core.progress import Progress, Silent
from ...core.results import Result, Table
from .config import SynthConfig

CATEGORIES = (
    "Mystery", "Cooking", "Travel", "History", "Fantasy", "Gardening",
    "Physics", "Poetry", "Sailing", "Music", "Chess", "Astronomy",
)  # fmt: skip
WORDS = (
    "Amber", "Silent", "Northern", "Hidden", "Golden", "Winter", "Paper", "Velvet", "Broken",
    "Crimson", "Little", "Second", "Glass", "Salt", "Iron", "Morning", "Distant", "Hollow",
)  # fmt: skip
NOUNS = (
    "Harbour", "Garden", "Orchard", "Letter", "River", "Lantern", "Bridge", "Window", "Island",
    "Forest", "Clock", "Mirror", "Station", "Compass", "Valley", "Tower", "Field", "Shore",
)  # fmt: skip
SERIES = 5  # items of a series
STAY, FOLLOW = 0.75, 0.6  # chance to stay in the category, and to take the next of the series


@dataclass(frozen=True)
class Synthetic:
    """A generated log (user, item, timestamp) and its items (item_id, title, category)."""

    log: pl.DataFrame
    items: pl.DataFrame


def generate(users: int, catalogue: int, length: int, seed: int) -> Synthetic:
    """Return a log of `users` x about `length` interactions with `catalogue` items."""
    random = np.random.default_rng(seed)
    kinds = min(len(CATEGORIES), max(2, catalogue // (2 * SERIES)))
    category = np.arange(catalogue) % kinds  # item i is number i // kinds of its category
    lengths = 5 + random.poisson(max(0, length - 5), users)
    chosen = _walk(random, lengths, kinds, catalogue)
    user = np.repeat(np.arange(users), lengths)
    numbers = pl.DataFrame({"user": user, "item": chosen, "timestamp": np.arange(len(user))})
    log = numbers.select(
        pl.format("u{}", "user").alias("user_id"),
        pl.format("b{}", "item").alias("item_id"),
        "timestamp",
    )
    number = np.arange(catalogue) // kinds
    series = number // SERIES + 131 * category  # which series, over all categories
    titles = [
        f"{WORDS[s % len(WORDS)]} {NOUNS[(s // len(WORDS) + 7 * s) % len(NOUNS)]} {n % SERIES + 1}"
        for s, n in zip(series.tolist(), number.tolist(), strict=True)
    ]
    items = pl.DataFrame(
        {
            "item_id": [f"b{i}" for i in range(catalogue)],
            "title": titles,
            "category": [CATEGORIES[k] for k in category.tolist()],
        }
    )
    return Synthetic(log, items)


def _walk(
    random: np.random.Generator, lengths: np.ndarray, kinds: int, catalogue: int
) -> np.ndarray:
    """Return the items of all users behind one another, all users stepping at once."""
    users = len(lengths)
    liked = random.random((users, kinds)).argsort(1)[:, :4]
    breadth = np.minimum(random.integers(2, 5, users), liked.shape[1])
    place = np.zeros((users, int(lengths.max())), dtype=np.int64)
    current = random.integers(0, breadth)
    last = np.full((users, kinds), -1)
    rows = np.arange(users)
    for step in range(place.shape[1]):
        turn = random.random(users) > STAY
        current = np.where(turn, random.integers(0, breadth), current)
        kind = liked[rows, current]
        size = (catalogue - kind + kinds - 1) // kinds
        fresh = np.minimum((size ** random.random(users)).astype(np.int64) - 1, size - 1)
        following = last[rows, kind] + 1
        series_goes_on = (following % SERIES != 0) & (following < size) & (following > 0)
        follow = series_goes_on & (random.random(users) < FOLLOW)
        number = np.where(follow, following, np.maximum(fresh, 0))
        last[rows, kind] = number
        place[:, step] = number * kinds + kind
    return place[np.arange(place.shape[1]) < lengths[:, None]]


def synthesise(config: SynthConfig, progress: Progress | None = None) -> Result:
    """Write log.csv and items.csv. Raises `DataError` when they exist already."""
    progress = progress or Silent()
    paths = {"log": config.out / "log.csv", "items": config.out / "items.csv"}
    for path in paths.values():
        check_writable(path, config.overwrite)
    made = generate(config.users, config.catalogue, config.length, config.seed)
    write(made, config.out)
    counts = {"users": config.users, "items": config.catalogue, "interactions": len(made.log)}
    return Result(
        outputs={name: str(path) for name, path in paths.items()},
        metrics=counts,
        tables=(Table("Generated", ("what", "count"), [(k, f"{v:,}") for k, v in counts.items()]),),
        notes=(f"Next: mlkit recommend {paths['log']} --items {paths['items']} --user u0",),
    )


def write(made: Synthetic, folder: Path) -> None:
    """Write log.csv and items.csv into a folder."""
    for name, frame in (("log.csv", made.log), ("items.csv", made.items)):
        with replacing(folder / name) as temporary:
            frame.write_csv(temporary)
