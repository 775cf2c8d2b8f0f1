"""Repairing a pruned backbone: intermediate supervision, bias compensation, norm re-estimation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from ...core.errors import DivergedError
from ...core.options import TrainOptions
from ...core.progress import Progress
from ...core.runtime import Runtime
from ...core.training import Fitted, Objective, Run, fit
from .backbone import Backbone, Tap, tapped
from .channels import ACTIVATIONS
from .ids import Array
from .losses import feature_loss, tap_weights
from .surgery import Norm, Slices

CACHE_BYTES = 2 * 2**30  # teacher features are kept in memory up to this size
HELD_OUT = 8  # one image in so many decides which weights are the best
TRIAL_STEPS = 8
TRIAL_RATES = (1.0, 1 / 4, 1 / 16)  # parts of the learning rate that a trial compares


class Student(nn.Module):
    """The pruned backbone; in training mode only its BatchNorms train (and only if asked)."""

    def __init__(self, network: fx.GraphModule, update_norms: bool) -> None:
        super().__init__()
        self.network, self.update_norms = network, update_norms

    def train(self, mode: bool = True) -> Student:
        """Switch the norms' statistics on or off; everything else stays in eval mode."""
        super().train(False)
        self.training = mode
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(mode and self.update_norms)
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the values at the supervision points for images (N, C, H, W)."""
        return self.network(images.contiguous(memory_format=torch.channels_last))


class FeatureMatching(Objective):
    """L_DFBF = sum_i alpha_i * distance(F'_i, F_i) (specification, section 2.4)."""

    def __init__(
        self,
        student: Student,
        teacher: fx.GraphModule,
        taps: Sequence[Tap],
        distance: str,
        alpha_method: int,
    ) -> None:
        super().__init__()
        self.model = student
        self.distance = distance
        self.weights = tap_weights(alpha_method, len(taps))
        # In a tuple, so that the teacher is neither trained nor saved with the student.
        self._teacher = (teacher,)
        self._taps = taps

    @torch.no_grad()
    def teach(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the unpruned backbone's values, without the channels that are gone."""
        values = self._teacher[0](images.contiguous(memory_format=torch.channels_last))
        return tuple(
            value
            if tap.kept is None
            else value.index_select(tap.dim, torch.tensor(tap.kept, device=value.device))
            for tap, value in zip(self._taps, values, strict=True)
        )

    def forward(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the loss on images, followed by the teacher's values where they are cached."""
        images, *features = batch
        wanted = features or self.teach(images)
        loss = feature_loss(self.model(images), wanted, self.weights, self.distance)
        return {"loss": loss}


class _Images:
    """Images with the teacher's features beside them when those fit into memory."""

    def __init__(self, images: Tensor, objective: FeatureMatching, runtime: Runtime) -> None:
        self.images = images
        self.features: list[Tensor] = []
        sample = objective.teach(images[:1].to(runtime.device))
        if sum(value.numel() for value in sample) * 4 * len(images) <= CACHE_BYTES:
            parts = [objective.teach(part.to(runtime.device)) for part in images.split(64)]
            self.features = [torch.cat(column).cpu() for column in zip(*parts, strict=True)]

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return images (n, C, H, W), followed by the cached features."""
        return (self.images[indices], *(values[indices] for values in self.features))


def finetune(
    backbone: Backbone,
    student_root: nn.Module,
    taps: Sequence[Tap],
    images: Tensor,
    options: TrainOptions,
    runtime: Runtime,
    progress: Progress,
    *,
    tap: str = "block",
    loss: str = "l1",
    alpha_method: int = 0,
    update_norms: bool = True,
    trial: bool = False,
    run: Run | None = None,
) -> Fitted:
    """Train `student_root` in place to reproduce the backbone's features on `images`.

    One image in eight is held out; the weights with the lowest loss on those are kept, which are
    those it came with (and a warning) when no step improves on them. With `trial` the learning
    rate is `options.lr` or a part of it, whichever brings the held-out images closest in a few
    steps: how steep the loss is depends on the network's scale.
    """
    clone = tap == "pre-add"
    device = runtime.device
    backbone.root.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    student_root.to(device, memory_format=torch.channels_last).requires_grad_(True)  # type: ignore[call-overload]
    teacher = tapped(backbone, backbone.root, taps, clone).eval()
    student = Student(tapped(backbone, student_root, taps, clone), update_norms).train()
    objective = FeatureMatching(student, teacher, taps, loss, alpha_method)
    held_out, training = images[::HELD_OUT], images[torch.arange(len(images)) % HELD_OUT != 0]

    @torch.no_grad()
    def evaluate(model: nn.Module) -> dict[str, float]:
        losses = [
            float(objective((part.to(device),))["loss"]) * len(part)
            for part in held_out.split(options.batch_size)
        ]
        return {"score": -sum(losses) / len(held_out)}

    with runtime.autocast():
        source = _Images(training, objective, runtime)
    before = copy.deepcopy(student.state_dict())
    start = evaluate(student.eval())["score"]
    student.train()
    if trial:
        rate = _best_rate(objective, source, options, runtime, evaluate, before)
        progress.info(f"learning rate {rate:g}")
        options = options.model_copy(update={"lr": rate})
    fitted = fit(
        objective,
        source,
        options,
        runtime,
        method="prune",
        run=run,
        evaluate=evaluate,
        progress=progress,
        title="repairing",
    )
    if fitted.best < start:
        student.load_state_dict(before)
        progress.warn(
            "the repair did not bring the features closer, so the weights stay as pruned; "
            "try a lower --repair-lr, --bn frozen, or more --synthetic-images"
        )
    student_root.eval()
    return fitted


def _best_rate(
    objective: FeatureMatching,
    source: _Images,
    options: TrainOptions,
    runtime: Runtime,
    evaluate: Callable[[nn.Module], dict[str, float]],
    before: dict[str, Tensor],
) -> float:
    """Return the learning rate that does best in a few steps; the student stays as it was."""
    scores: dict[float, float] = {}
    for part in TRIAL_RATES:
        few = {
            "lr": part * options.lr,
            "steps": TRIAL_STEPS,
            "save_every": TRIAL_STEPS,
            "schedule": "constant",
        }
        tried = options.model_copy(update=few)
        try:
            fitted = fit(objective, source, tried, runtime, method="prune", evaluate=evaluate)
            scores[tried.lr] = fitted.best
        except DivergedError:
            scores[tried.lr] = -math.inf
        objective.model.load_state_dict(before)
    return max(scores, key=lambda rate: scores[rate])


@torch.no_grad()
def reestimate_norms(model: nn.Module, images: Tensor, batch: int = 64) -> None:
    """Replace the running statistics of all BatchNorms by those that `images` give.

    The cheap baseline: no weight changes.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    device = next(model.parameters()).device
    for part in images.split(batch):
        if len(part) > 1:
            model(part.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


# --- compensation ---


def compensate(
    backbone: Backbone, pruned: nn.Module, slices: Slices, removed: Array
) -> tuple[int, int]:
    """Fold the mean of the removed channels into what follows; `pruned` is the sliced root.

    A removed channel a = act(z), z ~ N(beta, gamma^2) by its BatchNorm, adds
    delta_o = sum_c E[a_c] sum_uv W_{o,c,u,v} to the next convolution's output on average. The norm
    behind that convolution gets running_mean -= delta, else its bias gets += delta. Returns how
    many layers were compensated, of how many that lost inputs.
    """
    graph = backbone.graph
    nodes = {str(n.target): n for n in graph.graph_module.graph.nodes if n.op == "call_module"}
    done = total = 0
    for name, roles in graph.roles.items():
        module = graph.graph_module.get_submodule(name)
        part = slices.get(backbone.full_name(name))
        is_conv = isinstance(module, _ConvNd) and module.groups == 1
        simple = is_conv or isinstance(module, nn.Linear)
        if part is None or part.inputs is None or not simple or roles.inputs is None:
            continue
        total += 1
        mean = _expected_input(graph.graph_module, nodes[name])
        if mean is None:
            continue
        gone = torch.from_numpy(np.isin(graph.find(roles.inputs), removed))
        weight: Tensor = module.weight.detach()  # type: ignore[operator]
        columns = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
        delta = columns[:, gone] @ mean[gone].to(columns)
        done += _absorb(graph.graph_module, nodes[name], pruned, part.outputs, delta)
    return done, total


def _expected_input(network: nn.Module, node: fx.Node) -> Tensor | None:
    """Return E[act(z)] per input channel of a layer that follows norm and activations, else None.

    The expectation over the normal z is a sum over a fine grid of eight standard deviations to
    both sides, which serves any activation (error about 1e-5 gamma for ReLU).
    """
    activations: list[Callable[[Tensor], Tensor]] = []
    source = node.all_input_nodes[0]
    while source.op in ("call_module", "call_function"):
        if source.op == "call_function":
            if source.target not in ACTIVATIONS:
                return None
            rest = {**source.kwargs, "inplace": False} if "inplace" in source.kwargs else {}
            activations.append(partial(source.target, **rest))
        else:
            module = network.get_submodule(str(source.target))
            if isinstance(module, Norm):
                return _mean_activation(module, activations)
            if list(module.parameters(recurse=False)) or isinstance(module, nn.MaxPool2d):
                return None
            activations.append(module)
        source = source.all_input_nodes[0]
    return None


def _mean_activation(norm: nn.Module, activations: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """Return E[act(z)] for z ~ N(beta, gamma^2) per channel of a norm (C,)."""
    beta, gamma = norm.bias.detach(), norm.weight.detach().abs()  # type: ignore[operator]
    points = torch.linspace(-8, 8, 2001).to(beta)
    density = torch.exp(-(points**2) / 2)
    z = beta[:, None] + gamma[:, None] * points
    for activation in reversed(activations):
        z = activation(z)
    return z @ (density / density.sum())


@torch.no_grad()
def _absorb(
    network: nn.Module, node: fx.Node, pruned: nn.Module, kept: list[int] | None, delta: Tensor
) -> bool:
    """Shift the norm behind a layer of the pruned root, or else the layer's bias."""
    if kept is not None:
        delta = delta[kept]
    following = next(iter(node.users)) if len(node.users) == 1 else None
    if following is not None and following.op == "call_module":
        norm = pruned.get_submodule(str(following.target))
        if isinstance(norm, Norm) and norm.running_mean is not None:
            norm.running_mean -= delta.to(norm.running_mean)
            return True
    bias = getattr(pruned.get_submodule(str(node.target)), "bias", None)
    if bias is None:
        return False
    bias += delta.to(bias)
    return True
