"""The one training loop: schedules, clipping, accumulation, EMA, mixed precision, torchrun, resume.

A method brings an `Objective` (a module whose forward returns losses) and a `Source` of batches.
Every random choice of the loop is a function of the seed and the step, and the random state of
everything else is stored, so that a run which was killed and resumed ends with the same bits as
one that was not (on the CPU, with the same number of threads and processes).
"""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from . import checkpoint
from .config import Config, to_toml
from .distributed import (
    from_main_process,
    gather_random_states,
    mean_over_processes,
    set_random_state,
)
from .errors import CheckpointError, DataError, DivergedError, InterruptedRun, UsageError
from .files import Hold, check_writable, write_text
from .optimizers import clip_gradients, make_optimizer
from .options import TrainOptions
from .progress import Progress, Silent
from .runtime import Runtime, memory_errors, stream


class Objective(nn.Module):
    """What is minimised: holds the trained model and turns a batch into losses.

    `forward(batch)` returns a dict of scalar tensors; "loss" is differentiated, all are logged.
    Under torchrun each process sees its share of the batch, and the gradients are averaged.
    """

    model: nn.Module
    decay_vectors = True  # whether the weight decay holds for biases and norms

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Return the losses of a batch."""
        raise NotImplementedError

    def rates(self) -> Mapping[str, float]:
        """Return factors on the learning rate for parameters whose names contain these words."""
        return {}


class Source(Protocol):
    """Where batches come from."""

    def __len__(self) -> int:
        """Number of samples."""

    def fetch(self, indices: Tensor, generator: torch.Generator) -> Any:
        """Return a batch of the samples `indices` (int64); all randomness from `generator`."""


@dataclass(frozen=True)
class Run:
    """A run folder; `resume` continues from its last checkpoint."""

    folder: Path
    resume: bool = False
    _holds: list[Hold] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def open(cls, out: Path, resume: Path | None, stages: Sequence[str] = ()) -> Run:
        """Return the run to continue, `resume`, or a new one in `out`.

        `stages` are folders in it that hold the runs of earlier stages; a run that was cut during
        one of them has no state of its own yet. Raises `UsageError` when `out` or one of them
        holds a run already.
        """
        earlier = [cls((resume or out) / stage) for stage in stages]
        if resume is not None:
            cut_before = any(stage.state.exists() for stage in earlier)
            return cls.continued(resume) if cut_before else cls(resume, True)
        run = cls(out)
        if any(part.state.exists() or part.best.exists() for part in (run, *earlier)):
            raise UsageError(
                f"{out} holds a run already",
                f"continue it with --resume {out}, or name another folder with -o",
            )
        return run

    @classmethod
    def continued(cls, folder: Path) -> Run:
        """Return the run in `folder`, which goes on from its state where it has one."""
        return cls(folder, cls(folder).state.exists())

    def record(self, command: str, runtime: Runtime, *configs: Config) -> dict[str, Any]:
        """Write the settings of a run to run.toml, which --config takes back, and return them.

        From here on the folder is ours: raises `UsageError` when another process is writing there.
        """
        settings: dict[str, Any] = {}
        for config in configs:
            settings |= config.to_dict()
        settings |= {"seed": runtime.seed, "resume": None}
        if runtime.is_main:
            check_writable(self.folder / "run.toml")
            self.folder.mkdir(parents=True, exist_ok=True)
            self._holds.append(Hold(self.folder))
            write_text(self.folder / "run.toml", to_toml(command, settings))
        return settings

    @property
    def best(self) -> Path:
        """The weights that are handed over."""
        return self.folder / "best.safetensors"

    @property
    def state(self) -> Path:
        """The complete training state, from which a run continues."""
        return self.folder / "last.safetensors"

    @property
    def log(self) -> Path:
        """One JSON object per logged step."""
        return self.folder / "metrics.jsonl"


@dataclass(frozen=True)
class Fitted:
    """How a training run ended. `history` is what metrics.jsonl holds."""

    steps: int
    best: float
    best_step: int
    history: list[dict[str, float]] = field(default_factory=list)


def learning_rate(step: int, total: int, options: TrainOptions) -> float:
    """Return the learning rate of step 0..total-1: linear warm-up, then the schedule."""
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    if options.schedule == "constant":
        return options.lr
    if options.schedule == "step":
        return options.lr * (0.1 if step >= options.decay_at * total else 1.0)
    part = (step - options.warmup) / max(1, total - options.warmup)
    if options.schedule == "poly":
        # DeepLab's: power 0.9, down to a twenty-fifth (2.5e-4 to 1e-5).
        return options.lr * (0.04 + 0.96 * (1 - part) ** 0.9)
    return options.lr * 0.5 * (1 + math.cos(math.pi * part))


def fit(
    objective: Objective,
    source: Source,
    options: TrainOptions,
    runtime: Runtime,
    *,
    method: str,
    run: Run | None = None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    save_best: Callable[[nn.Module, dict[str, float]], None] | None = None,
    progress: Progress | None = None,
    title: str = "training",
) -> Fitted:
    """Minimise `objective` over `source` and leave the best weights in `objective.model`.

    After every epoch (or `save_every` steps) `evaluate` scores the model; its number "score" is
    better when larger, and without it the lowest mean training loss counts. With a `run` folder
    the state, the log and, through `save_best`, the best model are kept there.

    Raises `DivergedError` when the loss or a gradient is not finite (the last good checkpoint
    stays), `InterruptedRun` after Ctrl-C (the state is saved first), `CheckpointError` when
    there is nothing to resume, and `DataError` when there are too few samples.
    """
    trainer = _Trainer(objective, source, options, runtime, method, run)
    trainer.evaluate, trainer.save_best = evaluate, save_best
    with memory_errors(f"try --batch-size {max(1, options.batch_size // 2)}, or --accumulate 2"):
        return trainer.run_all(progress or Silent(), title)


class _Trainer:
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None
    save_best: Callable[[nn.Module, dict[str, float]], None] | None = None

    def __init__(
        self,
        objective: Objective,
        source: Source,
        options: TrainOptions,
        runtime: Runtime,
        method: str,
        run: Run | None,
    ) -> None:
        self.objective = objective.to(runtime.device)
        self.source, self.options, self.runtime = source, options, runtime
        self.method, self.run = method, run
        self.samples = min(len(source), options.limit) if options.limit else len(source)
        self.batch = min(options.batch_size, self.samples)
        self.batch -= self.batch % (runtime.world_size * options.accumulate)
        parts = runtime.world_size * options.accumulate
        if options.batch_size < parts:
            raise UsageError(
                f"--batch-size {options.batch_size} is less than one for each part: "
                f"{runtime.world_size} processes times --accumulate {options.accumulate}",
                f"give --batch-size {parts} or more",
            )
        if self.batch == 0:
            raise DataError(
                f"{self.samples} samples are too few for {runtime.world_size} processes "
                f"and --accumulate {options.accumulate}",
                "use more data, or fewer processes",
            )
        self.per_epoch = self.samples // self.batch
        self.total = options.steps or options.epochs * self.per_epoch
        self.save_every = options.save_every or self.per_epoch
        self.model = objective.model
        self.optimizer = make_optimizer(
            objective, options, objective.rates(), objective.decay_vectors
        )
        self.scaler = torch.amp.GradScaler("cuda", enabled=runtime.precision == "fp16")
        self.average = _average(self.model, options.ema)
        self.step = 0
        self.best, self.best_step = -math.inf, -1
        self.best_weights: dict[str, Tensor] = {}
        self.sums: dict[str, float] = {}  # losses since the last checkpoint
        self.history: list[dict[str, float]] = []
        self._epoch_order = (-1, torch.zeros(0, dtype=torch.int64))

    # --- the loop ---

    def run_all(self, progress: Progress, title: str) -> Fitted:
        if self.run is not None and self.run.resume:
            self._resume()
        wrapped: nn.Module = self.objective
        if self.runtime.world_size > 1:
            wrapped = nn.parallel.DistributedDataParallel(self.objective)
        with interruption() as stopped, progress.task(title, self.total) as task:
            task.advance(self.step)
            batches = self._batches()
            while not self._patience_is_spent() and (batch := next(batches, None)) is not None:
                losses = self._advance(wrapped, batch)
                for name, value in losses.items():
                    self.sums[name] = self.sums.get(name, 0.0) + value
                self.step += 1
                task.advance(1, f"loss {losses['loss']:.4g}")
                if self.step % self.save_every == 0 or self.step == self.total:
                    self._checkpoint()
                if self._agree_to_stop(stopped()):
                    self._stop_here()
        if self.best_weights:
            self.model.load_state_dict(self.best_weights)
        return Fitted(self.step, self.best, self.best_step, self.history)

    def _patience_is_spent(self) -> bool:
        """Return True when the last `patience` evaluations were all no better than the best."""
        since_best = sum(entry["step"] > self.best_step for entry in self.history)
        return 0 < self.options.patience <= since_best

    def _advance(self, wrapped: nn.Module, batch: Any) -> dict[str, float]:
        """Take one optimizer step on one batch, cut into `accumulate` parts."""
        rate = learning_rate(self.step, self.total, self.options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        self.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, float] = {}
        for part in batch:
            with self.runtime.autocast():
                losses = wrapped(part)
            self.scaler.scale(losses["loss"] / len(batch)).backward()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + float(value.detach()) / len(batch)
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.objective.parameters(), self.options.clip or math.inf)
        # With fp16 an infinite gradient is a normal event: the scaler skips the step.
        if not self.scaler.is_enabled() and not math.isfinite(float(norm) + totals["loss"]):
            self._diverged(totals["loss"])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return totals

    def _diverged(self, loss: float) -> None:
        kept = ""
        if self.run is not None and self.run.state.exists():
            kept = f"; the state before is in {self.run.state}"
        raise DivergedError(
            f"training diverged at step {self.step + 1} (loss {loss:.4g}){kept}",
            f"lower --lr (now {self.options.lr:g}), or clip the gradients with --clip 1",
        )

    def _batches(self) -> Iterator[list[Any]]:
        """Yield the batch of every step that is left, each cut into `accumulate` parts."""
        from torch.utils.data import DataLoader

        plan = _Plan(self.source, self._order, self.runtime.seed)
        loader: DataLoader[Any] = DataLoader(
            plan,
            sampler=range(self.step, self.total),
            batch_size=None,
            num_workers=self.runtime.workers,
            generator=torch.Generator(),  # keeps the loader away from the global random state
        )
        for parts in loader:
            yield [_to_device(part, self.runtime.device) for part in parts]

    def _order(self, step: int) -> list[Tensor]:
        """Return the samples of this process in a step, as one index tensor per part."""
        epoch, place = divmod(step, self.per_epoch)
        if self._epoch_order[0] != epoch:
            order = torch.randperm(self.samples, generator=stream(self.runtime.seed, 0, epoch))
            self._epoch_order = (epoch, order)
        chosen = self._epoch_order[1][place * self.batch : (place + 1) * self.batch]
        mine = chosen.chunk(self.runtime.world_size)[self.runtime.rank]
        return list(mine.chunk(self.options.accumulate))

    # --- keeping ---

    def _checkpoint(self) -> None:
        """Score the model, log, keep the best, save the state; only the main process writes."""
        count = self.step % self.save_every or self.save_every
        sums, self.sums = self.sums, {}
        means = mean_over_processes({k: v / count for k, v in sums.items()}, self.runtime)
        model = self.average.module if self.average is not None else self.model
        scores: dict[str, float] = {}
        if self.evaluate is not None and self.runtime.is_main:
            training = model.training
            scores = self.evaluate(model.eval())
            model.train(training)
        scores = from_main_process(scores, self.runtime)
        score = scores.get("score", -means["loss"])
        entry = {"step": self.step, **means, **scores}
        group = self.optimizer.param_groups[0]
        entry["lr"] = group["lr"] / group["rate"]
        self.history.append(entry)
        if score > self.best:
            self.best, self.best_step = score, self.step
            self.best_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
            if self.save_best is not None and self.runtime.is_main:
                self.save_best(model, entry)
        if self.run is not None:
            self._save_state()
            if self.runtime.is_main:
                lines = [json.dumps(item) for item in self.history]
                write_text(self.run.log, "\n".join(lines) + "\n")

    def _save_state(self) -> None:
        assert self.run is not None
        random = gather_random_states(self.runtime)
        if not self.runtime.is_main:
            return
        state = {
            "model": self.objective.state_dict(),
            "best": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "random": random,
        }
        tensors, tree = checkpoint.flatten_state("state", _distinct(state))
        content = {
            "tree": tree,
            "step": self.step,
            "best": self.best if math.isfinite(self.best) else None,
            "best_step": self.best_step,
            "sums": self.sums,
            "history": self.history,
        }
        checkpoint.save(
            self.run.state, tensors, checkpoint.Metadata(self.method, "training state", content)
        )

    def _resume(self) -> None:
        assert self.run is not None
        if not self.run.state.exists():
            raise CheckpointError(
                f"nothing to resume: {self.run.state} does not exist",
                "give the run folder of an earlier training with --resume",
            )
        tensors, metadata = checkpoint.load(self.run.state, self.method, "training state")
        content = metadata.content
        state = checkpoint.restore_state(tensors, content["tree"])
        try:
            self.objective.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{self.run.state} belongs to another network or data set",
                "resume with the options that the run was started with",
            ) from error
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        self.best_weights = state["best"]
        self.step, self.best_step = content["step"], content["best_step"]
        self.best = -math.inf if content["best"] is None else content["best"]
        self.sums, self.history = content["sums"], content["history"]
        if len(state["random"]) == self.runtime.world_size:
            set_random_state(state["random"][self.runtime.rank], self.runtime.device)

    def _agree_to_stop(self, stopped: bool) -> bool:
        """Return True in all processes when one of them was told to stop."""
        if self.runtime.world_size == 1:
            return stopped
        flag = torch.tensor(float(stopped), device=self.runtime.device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)

    def _stop_here(self) -> None:
        if self.run is None:
            raise InterruptedRun("interrupted; nothing was kept", "name a run folder next time")
        self._save_state()
        raise InterruptedRun(
            f"interrupted after step {self.step} of {self.total}; the state is in {self.run.state}",
            f"continue with --resume {self.run.folder}",
        )


class _Plan(torch.utils.data.Dataset[Any]):
    """Item `step` is the list of batch parts of that step, whatever came before."""

    def __init__(self, source: Source, order: Callable[[int], list[Tensor]], seed: int) -> None:
        self.source, self.order, self.seed = source, order, seed

    def __getitem__(self, step: int) -> list[Any]:
        parts = self.order(step)
        return [
            # Named by its first sample: the same share of a batch meets the same randomness
            # in whichever process it is computed.
            self.source.fetch(part, stream(self.seed, 1, step, int(part[0])))
            for part in parts
        ]


def _average(model: nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel | None:
    if not decay:
        return None
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def _to_device(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: _to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        moved = [_to_device(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch


def _distinct(value: Any, seen: set[int] | None = None) -> Any:
    """Copy tensors that share memory: safetensors stores each tensor on its own."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        value = value.detach()
        if value.data_ptr() in seen or not value.is_contiguous():
            return value.clone(memory_format=torch.contiguous_format)
        seen.add(value.data_ptr())
        return value
    if isinstance(value, Mapping):
        return {key: _distinct(item, seen) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_distinct(item, seen) for item in value]
    return value


@contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM end the loop after the current step; a second one ends it at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
