"""`recommend`: training input, optimisers, retrieval beside faiss, and memory on a long log."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import polars as pl
import torch
from torch import Tensor

from mlkit.core.options import RunOptions
from mlkit.core.retrieval import top_k
from mlkit.core.runtime import start
from mlkit.tasks.recommend.aggregate import Labels, recommend_lists
from mlkit.tasks.recommend.config import LossOptions, ModelOptions, RecommendTrainOptions
from mlkit.tasks.recommend.data import Sequences, starts_of
from mlkit.tasks.recommend.fit import fit_model
from mlkit.tasks.recommend.sampling import Histories
from mlkit.tasks.recommend.split import Held, Split

from .timing import cpu_seconds

BATCH, WIDTH, ROWS = 128, 20, 20_000_000


def compare() -> list[dict[str, Any]]:
    """All tables, one thread."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    return [*training_input(), *optimisers(), *search(), *retrieval(), memory()]


def sequences(users: int, items: int, seed: int = 0) -> Sequences:
    """Return generated sequences of 5 to 30 items."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 31, (users,), generator=generator)
    numbers = torch.randint(1, items + 1, (int(lengths.sum()),), generator=generator)
    return Sequences(numbers.int(), starts_of(lengths))


class PerUserLists:
    """The straightforward way of the authors' data iterator: lists and dictionaries of Python."""

    def __init__(self, log: Sequences) -> None:
        self.graph = {user: log[user].tolist() for user in range(len(log))}
        self.users = list(self.graph)

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        items, histories, masks = [], [], []
        for user in random.sample(self.users, BATCH):
            sequence = self.graph[user]
            cut = random.choice(range(4, len(sequence)))
            items.append(sequence[cut])
            history = sequence[max(0, cut - WIDTH) : cut]
            histories.append(history + [0] * (WIDTH - len(history)))
            masks.append([1.0] * len(history) + [0.0] * (WIDTH - len(history)))
        return torch.tensor(items), torch.tensor(histories), torch.tensor(masks)


def training_input() -> list[dict[str, Any]]:
    """Users per second that each data path makes ready (without negatives, as theirs)."""
    log, steps = sequences(50_000, 10_000), 300
    lists = PerUserLists(log)
    flat = Histories(log, 10_001, WIDTH, 10, "full")
    generator = torch.Generator().manual_seed(0)

    def ours() -> None:
        for _ in range(steps):
            flat.fetch(torch.randint(len(log), (BATCH,), generator=generator), generator)

    def theirs() -> None:
        for _ in range(steps):
            lists.batch()

    return [
        {"data path": name, "users/s": round(steps * BATCH / cpu_seconds(function))}
        for name, function in (("flat gather", ours), ("lists per user", theirs))
    ]


def optimisers() -> list[dict[str, Any]]:
    """CPU milliseconds per training step, dense and sparse updates, over the catalogue's size."""
    rows = []
    runtime = start(RunOptions(device="cpu"))
    for items in (10_000, 50_000, 200_000, 1_000_000):
        log = sequences(5_000, items)
        empty = Sequences(torch.zeros(0, dtype=torch.int32), torch.zeros(1, dtype=torch.int64))
        none = Held(torch.zeros(0, dtype=torch.int64), empty, empty)
        names = pl.Series(["", *map(str, range(items))])
        split = Split(names, torch.ones(items + 1, dtype=torch.int64), log, none, none)
        row: dict[str, Any] = {"items": items}
        for sparse in ("off", "on"):
            steps = 40 if items < 500_000 else 10
            options = RecommendTrainOptions(steps=steps, save_every=steps, patience=0)

            def run(sparse: Any = sparse, options: Any = options, split: Any = split) -> None:
                fit_model(split, ModelOptions(), LossOptions(), options, runtime, sparse=sparse)

            short = options.model_copy(update={"steps": 2, "save_every": 2})
            fixed = cpu_seconds(lambda run=run, short=short: run(options=short), 2)
            spent = cpu_seconds(run, 2) - fixed
            row["dense ms" if sparse == "off" else "sparse ms"] = round(
                1e3 * spent / (steps - 2), 1
            )
        rows.append(row)
    return rows


def search() -> list[dict[str, Any]]:
    """Exact top 50 of 512 queries, d = 64: blocked torch and faiss IndexFlatIP, same results."""
    rows = []
    for items in (12_000, 100_000, 400_000):
        torch.manual_seed(0)
        queries, table = torch.randn(512, 64), torch.randn(items, 64)
        index = faiss.IndexFlatIP(64)
        index.add(table.numpy())
        ours = cpu_seconds(lambda q=queries, t=table: top_k(q, t, 50))
        theirs = cpu_seconds(lambda i=index, q=queries: i.search(q.numpy(), 50))
        found, wanted = top_k(queries, table, 50)[1], index.search(queries.numpy(), 50)[1]
        rows.append(
            {
                "items": items,
                "torch blocked s": round(ours, 3),
                "faiss IndexFlatIP s": round(theirs, 3),
                "same": f"{100 * float((found.numpy() == wanted).mean()):.2f} %",
            }
        )
    return rows


def retrieval() -> list[dict[str, Any]]:
    """Users per second at 100,000 items, K = 4, N = 50, with and without the dial."""
    torch.manual_seed(0)
    interests, table = torch.randn(256, 4, 64), torch.randn(100_001, 64)
    labels = Labels(torch.randint(0, 300, (100_001,)))
    rows = []
    for name, dial in (("lambda 0", 0.0), ("lambda 0.25", 0.25)):
        spent = cpu_seconds(
            lambda dial=dial: recommend_lists(interests, table, 50, dial=dial, labels=labels)
        )
        rows.append({"100,000 items, K 4, N 50": name, "users/s": round(256 / spent)})
    return rows


def memory() -> dict[str, Any]:
    """Seconds and peak memory of reading, splitting and sampling a log of 20 million rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.csv"
        write_long(path)
        command = [sys.executable, "-m", "tests.benchmarks.recommend", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        size = path.stat().st_size
    report = dict(part.split("=") for part in done.stdout.split())
    return {"rows": ROWS, "file GB": round(size / 1e9, 2), **report}


def write_long(path: Path) -> None:
    """Write user,item,time with 2 million users and 500,000 items, in order of time."""
    random_ = np.random.default_rng(0)
    with path.open("wb") as file:
        for part in range(20):
            count = ROWS // 20
            frame = pl.DataFrame(
                {
                    "user_id": random_.integers(0, 2_000_000, count),
                    "item_id": (500_001 ** random_.random(count)).astype(np.int64),
                    "timestamp": np.arange(count) + part * count,
                }
            )
            frame.with_columns(
                pl.format("u{}", "user_id").alias("user_id"),
                pl.format("sku-{}", "item_id").alias("item_id"),
            ).write_csv(file, include_header=part == 0)


def read_long(path: Path) -> None:
    """Read, split and draw a batch in a process of its own, and print what it took."""
    from mlkit.tasks.recommend.config import ColumnOptions, SplitOptions
    from mlkit.tasks.recommend.data import read_log
    from mlkit.tasks.recommend.split import make_split

    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    log = read_log(path, ColumnOptions())
    read = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    split = make_split(log, SplitOptions())
    source = Histories(split.train, len(split.names), WIDTH, 10)
    source.fetch(torch.arange(BATCH), torch.Generator().manual_seed(0))
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(
        f"read_s={read:.0f} all_s={time.perf_counter() - begin:.0f} "
        f"base_MB={base // 1024} read_peak_MB={peak // 1024} peak_MB={whole // 1024}\n"
    )


if __name__ == "__main__":
    read_long(Path(sys.argv[1]))
