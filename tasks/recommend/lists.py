"""Lists, tables, pictures and files of one call of `mlkit recommend`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...core.files import check_writable
from ...core.progress import Progress
from ...core.report import write_figure
from ...core.results import Result, Table
from ...core.runtime import Runtime
from .aggregate import Labels, Lists, recommend_lists
from .checkpoint import Trained
from .config import RecommendConfig
from .data import Items, Sequences
from .pictures import interest_map
from .score import batches_of_interests, seen_pairs
from .writing import append, as_bytes, save_array, save_names, writing


@dataclass(frozen=True)
class Asked:
    """For whom: names, and histories in the model's item numbers.

    Items that the model does not know are left out; `unknown` names them, once per occurrence.
    """

    names: pl.Series
    histories: Sequences
    unknown: pl.Series

    def take(self, users: Tensor) -> Asked:
        """Return some of the users."""
        names = self.names.gather(users.numpy())
        return Asked(names, self.histories.take(users), self.unknown)


class Engine:
    """Lists, tables and files of one call."""

    def __init__(
        self,
        config: RecommendConfig,
        trained: Trained,
        items: Items,
        labels: Labels | None,
        runtime: Runtime,
        progress: Progress,
    ) -> None:
        self.config, self.trained, self.items = config, trained, items
        values = labels.values.to(runtime.device) if labels is not None else None
        self.labels = Labels(values) if values is not None else None
        self.progress, self.runtime = progress, runtime
        self.top = config.top
        if self.top > len(items):
            progress.warn(f"-k {self.top}: the model knows {len(items)} items, all of them follow")
            self.top = len(items)

    def batches(self, asked: Asked) -> Iterator[tuple[Tensor, Tensor, Lists]]:
        """Yield (users, interests, lists) of `--batch-size` users at a time."""
        model, width = self.trained.model, self.trained.options.max_history
        for users, interests in batches_of_interests(
            model, asked.histories, width, self.config.batch_size, self.runtime
        ):
            seen = None
            if not self.config.keep_seen:
                seen = seen_pairs(asked.histories, users, interests.device)
            lists = recommend_lists(
                interests,
                model.item_vectors,
                self.top,
                dial=self.config.diversity,
                labels=self.labels,
                exclude=seen,
            )
            yield users, interests.cpu(), Lists(*(part.cpu() for part in lists))

    def frame(self, names: pl.Series, lists: Lists) -> pl.DataFrame:
        """Return lists as rows: user, rank, item, score, interest, category, title, the rest."""
        there = (lists.items > 0).flatten().numpy()
        count = lists.items.shape[1]
        numbers = lists.items.flatten().clamp_min(0).numpy()
        columns = {
            "user": names.gather(np.repeat(np.arange(len(names)), count)),
            "rank": np.tile(np.arange(1, count + 1), len(names)),
            "item": self.items.names.gather(numbers),
            "score": lists.scores.flatten().numpy(),
            "interest": (lists.interests + 1).flatten().numpy(),
        }
        for name, values in (("category", self.items.labels), ("title", self.items.titles)):
            if values is not None:
                columns[name] = values.gather(numbers)
        for values in self.items.extra:
            columns.setdefault(values.name, values.gather(numbers))
        return pl.DataFrame(columns).filter(pl.Series(there))

    def popular(self, names: list[str]) -> pl.DataFrame:
        """Return the most popular items for users without a known history; interest 0."""
        best = torch.arange(1, self.top + 1).expand(len(names), -1)
        scores = self.trained.counts[best].float()
        lists = Lists(best, scores, torch.full_like(best, -1))
        return self.frame(pl.Series(names), lists)

    # --- one or a few users ---

    def some(self, asked: Asked, fallback: list[str], outputs: dict[str, Any]) -> Result:
        """Return tables of recommendations and of what the interests are."""
        frames, tables = [], []
        for users, interests, lists in self.batches(asked):
            names = asked.names.gather(users.numpy())
            for row, (user, name) in enumerate(zip(users.tolist(), names, strict=True)):
                if name in fallback:
                    frames.append(self.popular([name]))
                    tables.append(self._table(name, frames[-1]))
                    continue
                one = Lists(*(part[row : row + 1] for part in lists))
                frames.append(self.frame(pl.Series([name]), one))
                tables.append(self._table(name, frames[-1]))
                tables.append(self._interests(name, asked.histories[user], interests[row], one))
                if self.config.plot is not None and not row:
                    outputs["plot"] = self._plot(asked.histories[user], interests[row], one)
        frame = pl.concat(frames) if frames else pl.DataFrame()
        stream = None
        if self.config.out is not None and self.config.out.name == "-":
            stream = as_bytes([frame])
        elif self.config.out is not None:
            with writing(self.config.out) as file:
                append(file, frame, self.config.out.suffix, first=True)
            outputs["recommendations"] = str(self.config.out)
        return Result(
            inputs=self.inputs(),
            outputs=outputs,
            metrics={"recommendations": frame.to_dicts(), "short": self._short(frame, asked)},
            tables=tuple(tables),
            notes=self._notes(frame, asked),
            stream=stream,
        )

    def _table(self, name: str, frame: pl.DataFrame) -> Table:
        columns = [c for c in ("rank", "item", "title", "category") if c in frame.columns]
        rows = [
            (*(str(row[c]) for c in columns), f"{row['score']:.3f}", str(row["interest"] or "-"))
            for row in frame.iter_rows(named=True)
        ]
        heads = (*columns, "score", "interest")
        return Table(f"For {name}", heads, rows)

    def _interests(self, name: str, history: Tensor, interests: Tensor, lists: Lists) -> Table:
        """Name each interest by the items of the history in its direction.

        By angle: inner products would name the same popular items everywhere.
        """
        recent = history[-self.trained.options.max_history :].long().unique()
        vectors = self.trained.model.item_vectors.cpu()[recent]
        nearest = (interests @ normalize(vectors, dim=1).T).topk(min(3, len(recent))).indices
        chosen = lists.interests[0][lists.items[0] > 0]
        rows = []
        for k, places in enumerate(nearest):
            near = " · ".join(self._title(int(recent[place])) for place in places)
            rows.append((str(k + 1), f"{int((chosen == k).sum())} of {len(chosen)}", near))
        return Table(
            f"Interests of {name}", ("interest", "proposed", "nearest items of the history"), rows
        )

    def _title(self, item: int) -> str:
        title = self.items.titles[item] if self.items.titles is not None else ""
        return title or self.items.names[item]

    def _plot(self, history: Tensor, interests: Tensor, lists: Lists) -> str:
        assert self.config.plot is not None
        vectors = self.trained.model.item_vectors.cpu()
        recent = history[-self.trained.options.max_history :].long()
        figure = interest_map(vectors, recent, interests, lists, self._title)
        write_figure(self.config.plot, figure)
        return str(self.config.plot)

    def _short(self, frame: pl.DataFrame, asked: Asked) -> bool:
        return len(frame) < self.top * len(asked.names)

    def _notes(self, frame: pl.DataFrame, asked: Asked) -> tuple[str, ...]:
        notes = []
        if self._short(frame, asked):
            notes.append(f"fewer than {self.top} items: the rest was seen already")
        if self.config.diversity == 0 and self.labels is not None:
            notes.append("Next: --diversity 0.25 mixes categories")
        return tuple(notes)

    def inputs(self) -> dict[str, Any]:
        """Return what the result says of its inputs."""
        log = None if self.config.log is None else str(self.config.log)
        return {"log": log, "weights": self.trained.name, "variant": self.trained.options.variant}

    # --- everybody ---

    def everybody(self, asked: Asked, fallback: list[str], outputs: dict[str, Any]) -> Result:
        """Write the lists of all users block by block; memory does not grow with the users."""
        out = self.config.out
        assert out is not None
        count = len(asked.names)
        if out.name == "-":
            frames = list(self._frames(asked, fallback))
            return Result(inputs=self.inputs(), outputs=outputs, stream=as_bytes(frames))
        rows = 0
        with writing(out) as file:
            for frame in self._frames(asked, fallback):
                append(file, frame, out.suffix, first=rows == 0)
                rows += len(frame)
        popular = len(fallback) if self.config.fallback == "popular" else 0
        return Result(
            inputs=self.inputs(),
            outputs={**outputs, "recommendations": str(out)},
            metrics={"users": count + popular, "rows": rows, "left_out": len(fallback) - popular},
            notes=(f"{count + popular:,} users, {rows:,} rows",),
        )

    def _frames(self, asked: Asked, fallback: list[str]) -> Iterator[pl.DataFrame]:
        with self.progress.task("recommending", len(asked.names)) as bar:
            for users, _, lists in self.batches(asked):
                yield self.frame(asked.names.gather(users.numpy()), lists)
                bar.advance(len(users))
        if fallback and self.config.fallback == "popular":
            yield self.popular(fallback)

    # --- vectors ---

    def export(self, asked: Asked, folder: Path) -> dict[str, str]:
        """Write items.npy (n, d), users.npy (users, K, d), float32, and their names as text."""
        vectors = self.trained.model.item_vectors[1:].cpu().numpy()
        for name in ("items.npy", "items.txt", "users.npy", "users.txt"):
            check_writable(folder / name, self.config.overwrite)
        save_array(folder / "items.npy", vectors)
        save_names(folder / "items.txt", self.items.names[1:])
        outputs = {"item vectors": str(folder / "items.npy")}
        if len(asked.names):
            width = self.trained.options.max_history
            found = batches_of_interests(
                self.trained.model, asked.histories, width, self.config.batch_size, self.runtime
            )
            users = torch.cat([interests.cpu() for _, interests in found])
            save_array(folder / "users.npy", users.numpy())
            save_names(folder / "users.txt", asked.names)
            outputs["user vectors"] = str(folder / "users.npy")
        return outputs
