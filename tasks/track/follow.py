"""Running a tracker over a sequence: from frames, or from given boxes, to rows of tracks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...core.media import batched
from ...core.progress import Progress, Silent
from ...core.runtime import Runtime
from .baselines import Assigner, Moment
from .boxes import from_relative, to_relative
from .checkpoint import THRESH, Trained
from .config import Baseline, Method, PostOptions
from .decoder import Memory
from .formats import Rows, make_rows
from .geometry import distinct
from .metrics import join
from .model import Given
from .sequence import SequenceInfo, to_tensor
from .tracker import QueryTracker

LEAST_SCORE = 0.1  # of a detection; ByteTrack goes on with such boxes
ENCODED_TOGETHER = 8  # frames that pass through the encoder in one batch


@dataclass(frozen=True)
class Followed:
    """Tracks on the frames that were processed, and the seconds that the parts took."""

    rows: Rows
    frames: list[int]
    seconds: dict[str, float]


def follow(
    method: Method,
    trained: Trained | None,
    info: SequenceInfo,
    places: Sequence[int],
    options: PostOptions,
    runtime: Runtime,
    given: Rows | None = None,
    progress: Progress | None = None,
) -> Followed:
    """Track with the network, or with a baseline on given boxes.

    Without them a baseline follows what the network finds in each frame on its own; with them it
    needs no network.
    """
    if method == "coltrack":
        assert trained is not None
        return follow_queries(trained, info, places, options, runtime, given, progress)
    seconds = {}
    if given is None:
        assert trained is not None
        begin = time.perf_counter()
        given = detect_boxes(trained, info, places, options.nms, runtime, progress)
        seconds = {"detect": time.perf_counter() - begin}
        options = options.model_copy(update={"thresh": options.thresh or trained.thresh})
    found = follow_boxes(method, info, places, options, given, progress)
    return Followed(found.rows, found.frames, seconds | found.seconds)


def follow_queries(
    trained: Trained,
    info: SequenceInfo,
    places: Sequence[int],
    options: PostOptions,
    runtime: Runtime,
    given: Rows | None = None,
    progress: Progress | None = None,
) -> Followed:
    """Track with the network: encode frames in batches, decode them one by one.

    `given` are boxes that detect queries start at, in pixels.
    """
    model = trained.model
    tracker = QueryTracker(
        model,
        options.thresh or trained.thresh,
        options.max_age,
        options.history,
        options.nms,
        options.confirm,
    )
    clock = {"read": 0.0, "encode": 0.0, "decode": 0.0}
    parts: list[Rows] = []
    width, height = info.size
    with (progress or Silent()).task(f"tracking {info.name}", len(places)) as task:
        for some, memory in _memories(trained, info, places, runtime, clock):
            begin = time.perf_counter()
            for index, place in enumerate(some):
                frame, time_s = info.numbers[place], info.times[place]
                boxes = None if given is None else _given(given, frame, info, runtime)
                with runtime.autocast():
                    seen = tracker.step(memory.frame(index), time_s, boxes)
                parts.append(
                    make_rows(
                        np.full(len(seen.identity), frame),
                        seen.identity.cpu().numpy(),
                        from_relative(seen.boxes.float().cpu().numpy(), width, height),
                        seen.scores.float().cpu().numpy(),
                        seen.labels.cpu().numpy() + 1,
                    )
                )
                task.advance(1, f"{len(seen.identity)} objects")
            clock["decode"] += time.perf_counter() - begin
    return Followed(join(parts), [info.numbers[place] for place in places], clock)


@torch.no_grad()
def detect_boxes(
    trained: Trained,
    info: SequenceInfo,
    places: Sequence[int],
    nms: float,
    runtime: Runtime,
    progress: Progress | None = None,
) -> Rows:
    """Return what the network finds in each frame on its own, with scores above `LEAST_SCORE`.

    Of two boxes of one class that overlap by more than `nms`, the one of higher score.
    """
    model, parts = trained.model, []
    none = model.no_tracks(runtime.device)
    with (progress or Silent()).task(f"detecting in {info.name}", len(places)) as task:
        for some, memory in _memories(trained, info, places, runtime, {"read": 0.0, "encode": 0.0}):
            for index, place in enumerate(some):
                with runtime.autocast():
                    found = model.decode(memory.frame(index), none, last_only=True).decoded
                boxes = found.boxes[-1].float().cpu()
                scores, labels = found.logits[-1].float().cpu().sigmoid().max(-1)
                kept = (scores > LEAST_SCORE).nonzero()[:, 0]
                kept = kept[distinct(boxes[kept], labels[kept], scores[kept], nms)]
                parts.append(
                    make_rows(
                        np.full(len(kept), info.numbers[place]),
                        -1,
                        from_relative(boxes[kept].numpy(), *info.size),
                        scores[kept].numpy(),
                        labels[kept].numpy() + 1,
                    )
                )
                task.advance(1, f"{len(kept)} boxes")
    return join(parts)


def _memories(
    trained: Trained,
    info: SequenceInfo,
    places: Sequence[int],
    runtime: Runtime,
    clock: dict[str, float],
) -> Iterator[tuple[Sequence[int], Memory]]:
    """Yield places and the encoder's memory of their frames, several at a time."""
    images = info.read(places)
    for some in batched(places, ENCODED_TOGETHER):
        begin = time.perf_counter()
        frames = [to_tensor(next(images), trained.options.size) for _ in some]
        middle = time.perf_counter()
        with torch.no_grad(), runtime.autocast():
            memory = trained.model.encode(torch.stack(frames).to(runtime.device))
        clock["read"] += middle - begin
        clock["encode"] += time.perf_counter() - middle
        yield some, memory


def _given(given: Rows, frame: int, info: SequenceInfo, runtime: Runtime) -> Given:
    rows = given.at(frame)
    boxes = torch.from_numpy(to_relative(rows.boxes, *info.size)).float()
    scores = torch.from_numpy(rows.score).float()
    return Given(boxes.to(runtime.device), scores.to(runtime.device))


def follow_boxes(
    method: Baseline,
    info: SequenceInfo,
    places: Sequence[int],
    options: PostOptions,
    given: Rows,
    progress: Progress | None = None,
) -> Followed:
    """Track given boxes with a baseline."""
    tracker = Assigner(method, options.max_age, options.thresh or THRESH)
    images = info.read(places) if method == "histogram" else None
    parts, begin = [], time.perf_counter()
    with (progress or Silent()).task(f"{method} on {info.name}", len(places)) as task:
        for place in places:
            frame, rows = info.numbers[place], given.at(info.numbers[place])
            image = next(images) if images is not None else None
            moment = Moment(frame, info.times[place], rows.boxes, rows.score, image)
            identity = tracker.step(moment)
            kept = rows[identity > 0]
            parts.append(
                make_rows(kept.frame, identity[identity > 0], kept.boxes, kept.score, kept.category)
            )
            task.advance(1)
    seconds = {"associate": time.perf_counter() - begin}
    return Followed(join(parts), [info.numbers[place] for place in places], seconds)


def unit_scores(rows: Rows) -> Rows:
    """Return detections with scores in [0, 1]: those of another scale become ranks.

    Public detections have scores of any scale; thresholds such as 0.6 mean nothing on them.
    """
    score = rows.score
    if not len(score) or (score.min() >= 0 and score.max() <= 1):
        return rows
    order = np.empty(len(score))
    order[np.argsort(score, kind="stable")] = np.arange(1, len(score) + 1)
    return Rows(**{**vars(rows), "score": 0.5 + 0.5 * order / len(score)})
