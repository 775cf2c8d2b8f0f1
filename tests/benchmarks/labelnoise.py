"""`labelnoise`: selection beside the per-class procedure and cleanlab; a thousand classes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from cleanlab.filter import find_label_issues
from numpy.typing import NDArray

from mlkit.tasks.labelnoise.guard import judge
from mlkit.tasks.labelnoise.mixture import fit_mixtures
from mlkit.tasks.labelnoise.noise import long_tail_counts
from mlkit.tasks.labelnoise.selection import tabasco
from mlkit.tasks.labelnoise.signals import compute

from .timing import cpu_seconds

Array = NDArray[Any]
WIDTH, BLOCK = 128, 4096


def compare() -> list[dict[str, Any]]:
    """Selection on the same probabilities, and mixtures alone, at growing sizes."""
    rows = []
    for classes, most in ((10, 5000), (100, 500), (1000, 100)):
        with tempfile.TemporaryDirectory() as folder:
            probs, features, labels = generate(Path(folder), classes, most, 0.1)
            probs, features = np.array(probs), np.array(features)
        times = {
            "signals": cpu_seconds(lambda p=probs, z=features, y=labels: compute(p, z, y)),
            "cleanlab": cpu_seconds(lambda p=probs, y=labels: find_label_issues(y, p, n_jobs=1), 1),
        }
        signals = compute(probs, features, labels)
        times["selection"] = cpu_seconds(lambda s=signals: tabasco(s))
        chosen = tabasco(signals)
        times["guard"] = cpu_seconds(lambda s=signals, c=chosen, p=probs: judge(s, c, p, 0.5))
        values = signals.jsd / signals.jsd.max()
        times["mixtures"] = cpu_seconds(lambda v=values, y=labels, k=classes: fit_mixtures(v, y, k))
        times["scikit-learn per class"] = cpu_seconds(
            lambda v=values, y=labels, k=classes: per_class(v, y, k), 1
        )
        shown = {f"{name}, CPU s": round(value, 4) for name, value in times.items()}
        rows.append({"classes": classes, "samples": len(labels), **shown})
    return rows


def per_class(values: Array, labels: Array, classes: int) -> None:
    """Fit one mixture after the other with scikit-learn, as the authors' code does."""
    import warnings

    from sklearn.mixture import GaussianMixture

    warnings.simplefilter("ignore")
    for k in range(classes):
        part = values[labels == k][:, None]
        mixture = GaussianMixture(2, max_iter=30, tol=1e-2, reg_covar=5e-4, random_state=0)
        mixture.fit(part).predict_proba(part)


def generate(folder: Path, classes: int, most: int, factor: float) -> tuple[Array, Array, Array]:
    """Write long-tailed probabilities (float32) and features (float16), 30 % of labels random."""
    random = np.random.default_rng(0)
    truth = np.repeat(np.arange(classes), long_tail_counts(most, classes, factor))
    wrong = random.random(len(truth)) < 0.3
    labels = np.where(wrong, random.integers(0, classes, len(truth)), truth)
    count = len(truth)
    probs = np.lib.format.open_memmap(folder / "p.npy", "w+", np.float32, (count, classes))
    features = np.lib.format.open_memmap(folder / "z.npy", "w+", np.float16, (count, WIDTH))
    means = random.standard_normal((classes, WIDTH), np.float32)
    for begin in range(0, count, BLOCK):
        part = truth[begin : begin + BLOCK]
        logits = random.standard_normal((len(part), classes), np.float32)
        logits[np.arange(len(part)), part] += 4 + np.log(classes / 10)
        powers = np.exp(logits)
        probs[begin : begin + BLOCK] = powers / powers.sum(1, keepdims=True)
        noise = random.standard_normal((len(part), WIDTH), np.float32)
        features[begin : begin + BLOCK] = means[part] + noise
    return probs, features, labels


def large() -> list[dict[str, Any]]:
    """ImageNet's size, 1.3 million samples of 1,000 classes: `mlkit labelnoise` on mapped arrays.

    MLKIT_BENCH_SHARE, in (0, 1], takes a part of it.
    """
    share = float(os.environ.get("MLKIT_BENCH_SHARE", "1"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, _, labels = generate(folder, 1000, int(3350 * share), 0.1)
        np.save(folder / "y.npy", labels)
        command = ["labelnoise", "--probs", "p.npy", "--features", "z.npy", "--labels", "y.npy"]
        code = f"from mlkit.cli.app import main; raise SystemExit(main({command!r}))"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        peak = watch(
            subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=subprocess.DEVNULL)
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        size = sum((folder / file).stat().st_size for file in ("p.npy", "z.npy"))
        return [
            {
                "samples": len(labels),
                "arrays, GB": round(size / 1e9, 2),
                "CPU s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime),
                "peak of its own memory, GB": round(peak / 1e6, 2),
                "report, MB": round((folder / "report.csv").stat().st_size / 1e6),
            }
        ]


def watch(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process; return the peak of its anonymous memory, kB (mapped files left out)."""
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
        peak = max(peak, *(int(value) for value in found), 0)
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"mlkit labelnoise ended with {process.returncode}")
    return peak
