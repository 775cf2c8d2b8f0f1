"""The loop over rounds: validation, the best weights, the log, exact resume.

`core.training.fit` takes one optimizer step per batch on one module; a round here is a protocol
between parties with optimizers of their own. Run folders, checkpoints and interruption are core's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...core import checkpoint
from ...core.errors import CheckpointError, DataError, DivergedError, InterruptedRun
from ...core.files import write_text
from ...core.progress import Progress, Silent
from ...core.training import Fitted, Run, interruption
from .coordinator import Coordinator
from .sums import rmse

METHOD = "forecast"


@dataclass
class Course:
    """How far the rounds have come; `best` holds the weights of the best validation so far."""

    score: float = -math.inf
    at: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def run_rounds(
    engine: Coordinator,
    *,
    run: Run | None = None,
    save_best: Callable[[dict[str, Tensor], dict[str, float]], None] | None = None,
    progress: Progress | None = None,
    title: str = "rounds",
) -> Fitted:
    """Train for `engine.options.rounds` rounds and leave the best weights in `engine`.

    After every round the validation RMSE decides. With a `run` folder the state and the log are
    kept there. Raises `DivergedError` when the loss is not finite, `InterruptedRun` after Ctrl-C
    (at the end of the round), `CheckpointError` when there is nothing to resume.
    """
    progress, options = progress or Silent(), engine.options
    engine.warn = progress.warn
    course = _resume(engine, run) if run is not None and run.resume else Course()
    engine.begin()
    with interruption() as stopped, progress.task(title, options.rounds) as task:
        task.advance(engine.rounds)
        while engine.rounds < options.rounds and not _patience_is_spent(engine, course):
            entry = _one_round(engine, course, run)
            if entry["score"] > course.score:
                course.score, course.at, course.best = (
                    entry["score"],
                    engine.rounds,
                    engine.snapshot(),
                )
                if save_best is not None:
                    save_best(course.best, entry)
            if run is not None:
                _keep(engine, course, run)
            task.advance(1, _note(entry))
            if stopped():
                _stop(run, engine)
    if course.best:
        engine.restore(course.best)
    return Fitted(engine.rounds, course.score, course.at, course.history)


def _patience_is_spent(engine: Coordinator, course: Course) -> bool:
    return 0 < engine.options.patience <= engine.rounds - course.at


def _one_round(engine: Coordinator, course: Course, run: Run | None) -> dict[str, float]:
    before = engine.transport.traffic.total
    losses = engine.round()
    error = rmse(engine.evaluate("valid"))
    if not math.isfinite(sum(losses.values()) + error):
        kept = f"; the state before is in {run.state}" if run and run.state.exists() else ""
        raise DivergedError(
            f"training diverged in round {engine.rounds} (loss {losses['loss']:.4g}){kept}",
            f"lower --lr (now {engine.options.lr:g})",
        )
    down, up = engine.transport.traffic.total
    entry = {"step": engine.rounds, **losses, "score": -error, "rmse": error}
    entry |= {"down_mb": (down - before[0]) / 1e6, "up_mb": (up - before[1]) / 1e6}
    if (spent := engine.spent()) is not None and math.isfinite(spent):
        entry["epsilon"] = spent
    course.history.append(entry)
    return entry


def _note(entry: dict[str, float]) -> str:
    traffic = f"{entry['down_mb']:.1f} MB down, {entry['up_mb']:.1f} MB up"
    return f"loss {entry['loss']:.4f}, validation RMSE {entry['rmse']:.4g}, {traffic}"


def _keep(engine: Coordinator, course: Course, run: Run) -> None:
    state = {"engine": engine.state_dict(), "best": course.best}
    tensors, tree = checkpoint.flatten_state("state", _own(state))
    content = {
        "tree": tree,
        "score": course.score,
        "at": course.at,
        "history": course.history,
        "nodes": list(engine.transport.names),
    }
    checkpoint.save(run.state, tensors, checkpoint.Metadata(METHOD, "training state", content))
    lines = [json.dumps(entry) for entry in course.history]
    write_text(run.log, "\n".join(lines) + "\n")


def _own(value: Any) -> Any:
    """Copy tensors, so that none shares memory with another."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _own(item) for key, item in value.items()}
    return [_own(item) for item in value] if isinstance(value, list) else value


def _resume(engine: Coordinator, run: Run) -> Course:
    if not run.state.exists():
        raise CheckpointError(
            f"nothing to resume: {run.state} does not exist",
            "give the run folder of an earlier training with --resume",
        )
    tensors, metadata = checkpoint.load(run.state, METHOD, "training state")
    content = metadata.content
    state = checkpoint.restore_state(tensors, content["tree"])
    try:
        if content["nodes"] != list(engine.transport.names):
            raise DataError("it was of other nodes")
        engine.load_state_dict(state["engine"])
    except (DataError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{run.state} belongs to another network or data set",
            "resume with the options that the run was started with",
        ) from error
    return Course(content["score"], content["at"], state["best"], content["history"])


def _stop(run: Run | None, engine: Coordinator) -> None:
    if run is None:
        raise InterruptedRun("interrupted; nothing was kept", "name a run folder next time")
    raise InterruptedRun(
        f"interrupted after round {engine.rounds} of {engine.options.rounds}; "
        f"the state is in {run.state}",
        f"continue with --resume {run.folder}",
    )
