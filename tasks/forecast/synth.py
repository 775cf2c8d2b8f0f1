"""A generated motorway: sensors along two roads, jams that travel upstream, rush hours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...core.errors import DataError
from ...core.files import check_writable, write_text
from ...core.progress import Progress, Silent
from ...core.results import Result
from .config import SynthConfig

FIRST = np.datetime64("2024-01-01T00:00", "m")  # a Monday
WAVE_KMH = 15.0  # jams travel upstream at about this speed on real motorways


@dataclass(frozen=True)
class Synthetic:
    """Speeds (S, N) in km/h, sensor names, kilometres along the road, the road of each sensor."""

    speeds: np.ndarray
    names: list[str]
    position: np.ndarray
    road: np.ndarray
    step_minutes: int


def generate(sensors: int, days: int, step_minutes: int, gaps: float, seed: int) -> Synthetic:
    """Generate speeds: free flow, two rush hours on weekdays, jams, noise; NaN where left out."""
    random = np.random.default_rng(seed)
    road = (np.arange(sensors) >= -(-sensors // 2)).astype(int)
    position = np.zeros(sensors)
    for number in (0, 1):
        count = int((road == number).sum())
        position[road == number] = np.cumsum(random.uniform(0.6, 1.6, count))
    steps = days * 1440 // step_minutes
    hours = np.arange(steps) * step_minutes / 60
    free = random.uniform(95, 115, sensors)
    loss = np.zeros((steps, sensors))
    for day in range(days):
        rush = (8.0, 17.5) if day % 7 < 5 else (14.0,)
        for number in (0, 1):
            for centre in rush:
                loss = np.maximum(loss, _jam(random, hours - 24 * day, position, road == number,
                                             centre))  # fmt: skip
    slow = random.normal(0, 1, (steps, sensors))
    for step in range(1, steps):
        slow[step] = 0.9 * slow[step - 1] + 0.43589 * slow[step]
    speeds = free * (1 - loss) + 2.5 * slow + random.normal(0, 1, (steps, sensors))
    speeds = np.clip(speeds, 3, None).round(1)
    speeds[random.random((steps, sensors)) < gaps] = np.nan
    names = [f"{'AB'[r]}{i + 1:02d}" for i, r in enumerate(road)]
    return Synthetic(speeds, names, position, road, step_minutes)


def _jam(
    random: np.random.Generator,
    hours: np.ndarray,
    position: np.ndarray,
    on_road: np.ndarray,
    centre: float,
) -> np.ndarray:
    """Return the share of speed lost (S, N) to one jam that starts at a random place."""
    start = random.normal(centre, 0.5)
    place = random.uniform(position[on_road].min(), position[on_road].max())
    depth, length = random.uniform(0.3, 0.75), random.uniform(0.6, 1.8)
    reach = random.uniform(2, 6)
    behind = place - position  # kilometres upstream of the place
    arrival = start + np.maximum(behind, 0) / WAVE_KMH
    strength = depth * np.exp(-np.maximum(behind, 0) / reach) * (behind > -0.3) * on_road
    phase = (hours[:, None] - arrival) / length
    return strength * np.sin(np.pi * phase.clip(0, 1)).clip(0) ** 0.7


def write(made: Synthetic, out: Path) -> None:
    """Write speeds.csv, distances.csv (from, to, metres, both ways) and places.csv."""
    moments = FIRST + np.arange(len(made.speeds)) * np.timedelta64(made.step_minutes, "m")
    rows = [",".join(["time", *made.names])]
    for moment, speeds in zip(moments, made.speeds, strict=True):
        cells = ["" if value != value else f"{value:g}" for value in speeds]
        rows.append(",".join([str(moment), *cells]))
    write_text(out / "speeds.csv", "\n".join(rows) + "\n")
    edges = ["from,to,distance"]
    for i, name in enumerate(made.names):
        for j, other in enumerate(made.names):
            if i != j and made.road[i] == made.road[j]:
                metres = 1000 * abs(made.position[i] - made.position[j])
                edges.append(f"{name},{other},{metres:.0f}")
    write_text(out / "distances.csv", "\n".join(edges) + "\n")
    places = ["id,latitude,longitude"]
    for name, km, road in zip(made.names, made.position, made.road, strict=True):
        places.append(f"{name},{50 + 0.02 * road:.4f},{8 + km / 71.5:.5f}")
    write_text(out / "places.csv", "\n".join(places) + "\n")


def synthesise(config: SynthConfig, progress: Progress | None = None) -> Result:
    """Generate a network and write it into a folder. Raises `DataError` if it holds one."""
    progress = progress or Silent()
    if config.step_minutes > 30 and config.days < 3:
        raise DataError("two days of such steps are too few", "raise --days")
    for name in ("speeds.csv", "distances.csv", "places.csv"):
        check_writable(config.out / name, config.overwrite)
    with progress.task("generating", None):
        made = generate(config.sensors, config.days, config.step_minutes, config.gaps, config.seed)
        write(made, config.out)
    speeds, graph = config.out / "speeds.csv", config.out / "distances.csv"
    return Result(
        outputs={"series": str(speeds), "graph": str(graph)},
        metrics={"sensors": config.sensors, "steps": len(made.speeds)},
        notes=(f"Next: mlkit forecast {speeds} --graph {graph} --plot day.png",),
    )
