"""Making images from a trained network alone: gradients are propagated back into noise.

Images are optimised until the network's BatchNorm layers see the statistics that they saw in
training, classifiers are sure of the wanted class, and neighbouring pixels agree
(specification of DFBF's image generator; Yin et al. 2020 for the statistics term).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from ...core import checkpoint
from ...core.checkpoint import Metadata
from ...core.errors import CheckpointError, DataError, DivergedError
from ...core.inputs import InputSpec
from ...core.progress import Progress, Task
from ...core.runtime import Runtime, memory_errors, stream
from .config import PruneConfig, SynthesisOptions

BatchNorm = (nn.BatchNorm2d, FrozenBatchNorm2d)
SMALL = 64  # images up to this side use the paper's CIFAR settings, larger ones its COCO settings
_SKIP_ABOVE = 1e7  # a layer whose statistics are that far off says nothing
# The paper's step sizes are for inputs normalised by ImageNet's mean and deviation: black and white
# lie 4.4 apart, zero is a level of 0.45. Other normalisations get the same steps in grey levels.
_RANGE, _MIDDLE = 4.4, 0.45


@dataclass(frozen=True)
class Settings:
    """Complete settings of a synthesis. `scales` lists (downscaling, iterations)."""

    images: int
    batch: int
    scales: tuple[tuple[int, int], ...]
    lr: float
    betas: tuple[float, float]
    cosine: bool
    lambda_main: float
    lambda_bn: float
    first_bn: float
    lambda_tv1: float
    lambda_tv2: float
    lambda_l2: float
    l2_per_image: bool
    jitter: int
    flip: bool


# Images and iterations, for small and for large images; large ones spend 2/3 at half scale.
_SIZES = {
    "quick": ((128, 200), (32, 200)),
    "standard": ((1024, 1000), (256, 1000)),
    "paper": ((12_800, 2000), (1600, 3000)),
}


def make_settings(config: PruneConfig, size: int) -> Settings:
    """Resolve the preset and the explicit options for images of side `size`."""
    small = size <= SMALL
    images, iterations = _SIZES[config.preset][0 if small else 1]
    images = config.synthetic_images or images
    iterations = config.iterations or iterations
    half = 2 * iterations // 3
    settings = Settings(
        images=images,
        batch=min(images, config.synthesis_batch or (256 if small else 16)),
        scales=((1, iterations),) if small or half == 0 else ((2, half), (1, iterations - half)),
        lr=0.1 if small else 0.25,
        betas=(0.9, 0.99) if small else (0.5, 0.9),
        cosine=small,
        lambda_main=1.0,
        lambda_bn=10.0 if small else 0.01,
        first_bn=1.0 if small else 10.0,
        lambda_tv1=config.lambda_tv1,
        lambda_tv2=1e-3 if small else 1e-4,
        lambda_l2=0.0 if small else 1e-5,
        l2_per_image=not small,
        jitter=2 if small else 30,
        flip=not small,
    )
    return _override(settings, config)


def _override(settings: Settings, options: SynthesisOptions) -> Settings:
    given = {
        "lr": options.synthesis_lr,
        "lambda_main": options.lambda_main,
        "lambda_bn": options.lambda_bn,
        "lambda_tv2": options.lambda_tv2,
        "lambda_l2": options.lambda_l2,
    }
    return replace(settings, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]


# --- losses ---


def bn_distance(inputs: Tensor, norm: nn.Module) -> Tensor:
    """Return ||var - running_var||_2 + ||mean - running_mean||_2 of a norm's input (N, C, H, W).

    The batch's variance is the biased one; both are computed in 32 bits.
    """
    var, mean = torch.var_mean(inputs.float(), dim=(0, 2, 3), correction=0)
    running_mean, running_var = norm.running_mean, norm.running_var
    assert isinstance(running_mean, Tensor)
    assert isinstance(running_var, Tensor)
    return torch.linalg.vector_norm(var - running_var) + torch.linalg.vector_norm(
        mean - running_mean
    )


def neighbour_differences(images: Tensor) -> list[Tensor]:
    """Return the differences of neighbours to the right, below, and along both diagonals."""
    return [
        images[..., :, 1:] - images[..., :, :-1],
        images[..., 1:, :] - images[..., :-1, :],
        images[..., 1:, 1:] - images[..., :-1, :-1],
        images[..., 1:, :-1] - images[..., :-1, 1:],
    ]


def tv2(images: Tensor) -> Tensor:
    """Return the sum over four directions of the L2 norm of neighbour differences."""
    return torch.stack([torch.linalg.vector_norm(d) for d in neighbour_differences(images)]).sum()


def tv1(images: Tensor) -> Tensor:
    """Return the sum over four directions of the mean absolute neighbour difference."""
    return torch.stack([d.abs().mean() for d in neighbour_differences(images)]).sum()


def image_norm(images: Tensor, per_image: bool) -> Tensor:
    """Return the L2 norm of the batch, or the mean of its images' norms."""
    if per_image:
        return torch.linalg.vector_norm(images.flatten(1), dim=1).mean()
    return torch.linalg.vector_norm(images)


@contextmanager
def watching(network: nn.Module, first: float) -> Iterator[list[Tensor]]:
    """Collect the weighted distance of every BatchNorm during forward passes in the block."""
    terms: list[Tensor] = []
    norms = [module for module in network.modules() if isinstance(module, BatchNorm)]

    def hook_for(weight: float) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
            distance = bn_distance(args[0], norm)
            terms.append(weight * torch.where(distance < _SKIP_ABOVE, distance, 0.0))

        return hook

    handles = [
        norm.register_forward_pre_hook(hook_for(first if i == 0 else 1.0))
        for i, norm in enumerate(norms)
    ]
    try:
        yield terms
    finally:
        for handle in handles:
            handle.remove()


def check_statistics(network: nn.Module, trained: bool) -> None:
    """Raise `DataError` when the network's norms hold no statistics to synthesise from."""
    norms = [module for module in network.modules() if isinstance(module, BatchNorm)]
    advice = "pass --images DIR with some unlabelled images of the kind it was trained on"
    if not norms:
        raise DataError(
            "the model has no BatchNorm layers, so images cannot be synthesised", advice
        )
    untouched = all(
        bool((norm.running_mean == 0).all()) and bool((norm.running_var == 1).all())  # type: ignore[union-attr]
        for norm in norms
    )
    if trained and untouched:
        raise DataError("the model's BatchNorm layers hold no statistics (folded or reset)", advice)


def balanced_targets(batch: int, index: int, classes: int) -> Tensor:
    """Return the class of each image of batch number `index` (batch,).

    Consecutive classes: each occurs floor(batch / classes) times or once more, and the
    remainder rotates from batch to batch.
    """
    return (torch.arange(batch) + index * batch) % classes


# --- optimisation ---


def synthesise(
    network: nn.Module,
    spec: InputSpec,
    settings: Settings,
    runtime: Runtime,
    progress: Progress,
    *,
    classes: int = 0,
    folder: Path | None = None,
) -> Tensor:
    """Return synthetic inputs (images, C, size, size), rounded to 16 bits.

    `network` is a whole classifier (`classes` > 0) or a backbone, in eval mode. With `folder`,
    finished batches are kept there and not computed again. Raises `DivergedError`.
    """
    batches = []
    count = math.ceil(settings.images / settings.batch)
    iterations = sum(steps for _, steps in settings.scales)
    network = network.to(runtime.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    frozen = [p for p in network.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        with (
            memory_errors(f"try --synthesis-batch {max(2, settings.batch // 2)}"),
            progress.task("synthesising images", count * iterations) as task,
        ):
            clock = _Clock(count * iterations, task, progress)
            for index in range(count):
                path = folder / f"batch-{index:04d}.safetensors" if folder else None
                if path is not None and path.exists():
                    batches.append(load_images(path))
                    task.advance(iterations)
                    continue
                targets = balanced_targets(settings.batch, index, classes) if classes else None
                batch = _optimise(
                    network, spec, settings, runtime, index, targets, clock.advance
                ).half()
                if path is not None:
                    save_images(path, batch)
                batches.append(batch)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return torch.cat(batches)[: settings.images].float()


class _Clock:
    """Counts iterations, and warns once when the first ones foretell more than ten minutes."""

    def __init__(self, total: int, task: Task, progress: Progress) -> None:
        self.total, self.task, self.progress = total, task, progress
        self.steps, self.begin = 0, time.monotonic()

    def advance(self, steps: int, note: str) -> None:
        self.steps += steps
        self.task.advance(steps, note)
        if self.steps == 5:
            minutes = (time.monotonic() - self.begin) / 5 * self.total / 60
            if minutes > 10:
                self.progress.warn(
                    f"synthesis will take up to {minutes:.0f} minutes on this machine; "
                    "--preset quick or a GPU is faster, --run DIR makes it resumable"
                )


def _optimise(
    network: nn.Module,
    spec: InputSpec,
    settings: Settings,
    runtime: Runtime,
    index: int,
    targets: Tensor | None,
    advance: Callable[..., None],
) -> Tensor:
    """Optimise one batch from noise through all scales; returns it on the CPU."""
    device = runtime.device
    random = stream(runtime.seed, 10, index)
    shape = (settings.batch, spec.channels, spec.size, spec.size)
    wanted = targets.to(device) if targets is not None else None
    low, middle, high = (
        spec.normalise(torch.full((1, spec.channels, 1, 1), level, device=device))
        for level in (0.0, _MIDDLE, 1.0)
    )
    unit = float((high - low).mean()) / _RANGE
    images = (middle + unit * torch.randn(shape, generator=random).to(device)).requires_grad_()
    best = images.detach()
    for scale, iterations in settings.scales:
        optimizer = torch.optim.Adam([images], unit * settings.lr, settings.betas)
        scaler = torch.amp.GradScaler("cuda", enabled=runtime.precision == "fp16")
        lowest = math.inf  # losses of different scales cannot be compared
        for step in range(iterations):
            optimizer.param_groups[0]["lr"] = unit * _learning_rate(settings, step, iterations)
            view = _jittered(images, scale, settings, random)
            loss = _loss(network, view, wanted, settings, runtime)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise DivergedError(
                    f"the synthesis diverged at iteration {step + 1} (loss {value})",
                    f"lower --synthesis-lr (now {settings.lr:g}) or --lambda-bn "
                    f"(now {settings.lambda_bn:g})",
                )
            if value < lowest:
                lowest, best = value, images.detach().clone()
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            with torch.no_grad():
                images.copy_(torch.minimum(torch.maximum(images, low), high))
            advance(1, f"loss {value:.3g}")
    return torch.minimum(torch.maximum(best, low), high).cpu()


def _loss(
    network: nn.Module,
    view: Tensor,
    targets: Tensor | None,
    settings: Settings,
    runtime: Runtime,
) -> Tensor:
    with watching(network, settings.first_bn) as terms, runtime.autocast():
        outputs = network(view.contiguous(memory_format=torch.channels_last))
    loss = settings.lambda_bn * torch.stack(terms).sum() if terms else view.new_zeros(())
    if targets is not None:
        loss = loss + settings.lambda_main * F.cross_entropy(outputs.float(), targets)
    if settings.lambda_tv2:
        loss = loss + settings.lambda_tv2 * tv2(view)
    if settings.lambda_tv1:
        loss = loss + settings.lambda_tv1 * tv1(view)
    if settings.lambda_l2:
        loss = loss + settings.lambda_l2 * image_norm(view, settings.l2_per_image)
    return loss


def _learning_rate(settings: Settings, step: int, total: int) -> float:
    """Constant, or (CIFAR) a linear warm-up of up to 100 steps and a cosine to zero."""
    if not settings.cosine:
        return settings.lr
    warmup = min(100, total // 10)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def _jittered(images: Tensor, scale: int, settings: Settings, random: torch.Generator) -> Tensor:
    """Return the batch downscaled, rolled by a random offset, and perhaps mirrored."""
    view = F.avg_pool2d(images, scale) if scale > 1 else images
    most = settings.jitter // scale
    offsets = torch.randint(-most, most + 1, (2,), generator=random).tolist()
    view = torch.roll(view, offsets, (2, 3))
    if settings.flip and torch.rand((), generator=random) < 0.5:
        view = view.flip(3)
    return view


# --- keeping ---


def save_images(path: Path, images: Tensor) -> None:
    """Write synthetic inputs (N, C, H, W) as 16-bit numbers, in one step."""
    checkpoint.save(path, {"images": images.half()}, Metadata("prune", "images"))


def load_images(path: Path, spec: InputSpec | None = None) -> Tensor:
    """Return what `save_images` wrote, as 32-bit numbers.

    Raises `CheckpointError` when the shape is not what the model (`spec`) wants.
    """
    tensors, _ = checkpoint.load(path, "prune", "images")
    images = tensors.get("images", torch.empty(0))
    if images.dim() != 4 or (
        spec is not None and images.shape[1:] != (spec.channels, spec.size, spec.size)
    ):
        raise CheckpointError(
            f"{path} holds images of shape {tuple(images.shape[1:])}, which the model cannot take",
            "synthesise them with the same model and --image-size",
        )
    return images.float()
