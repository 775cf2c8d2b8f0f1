"""What the processes of one training tell each other, with gradients: gathering, batch norm.

Gradients are the sum over processes of what each wants, which the mean that
DistributedDataParallel takes turns into the gradient of the mean loss. With one process all of it
does nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

from ...core.distributed import process_count


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total


def summed(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, with gradients."""
    return tensor if process_count() == 1 else _Sum.apply(tensor)


def gathered(tensor: Tensor) -> Tensor:
    """Return the tensors (B, ...) of all processes below each other, in order, with gradients."""
    if process_count() == 1:
        return tensor
    rank, count = distributed.get_rank(), len(tensor)
    places = [tensor if r == rank else torch.zeros_like(tensor) for r in range(process_count())]
    assert count * process_count() == sum(map(len, places))
    return summed(torch.cat(places))


def own_part(tensor: Tensor) -> Tensor:
    """Return this process's share of what `gathered` made."""
    return tensor.chunk(process_count())[distributed.get_rank()] if process_count() > 1 else tensor


class SyncedBatchNorm(nn.BatchNorm3d):
    """Batch normalisation whose statistics are those of all processes; on any device.

    Takes (B, C) and (B, C, T, H, W). torch's own SyncBatchNorm refuses the CPU.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 5):
            raise ValueError(f"expected 2 or 5 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input, of the same shape."""
        if not self.training or process_count() == 1:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        axes = [0, *range(2, input.dim())]
        values = input.float()
        count = values.numel() // values.shape[1] * process_count()
        mean = summed(values.sum(axes)) / count
        shape = (1, -1, *(1,) * (input.dim() - 2))
        centred = values - mean.view(shape)
        variance = summed(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / max(1, count - 1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        return (normal * self.weight.view(shape) + self.bias.view(shape)).to(input.dtype)


def synchronised(module: nn.Module) -> nn.Module:
    """Return the module with every batch norm replaced by one over all processes."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        synced = SyncedBatchNorm(module.num_features, module.eps, module.momentum)
        synced.load_state_dict(module.state_dict())
        synced.weight, synced.bias = module.weight, module.bias  # a teacher's need no gradient
        return synced
    for name, child in module.named_children():
        setattr(module, name, synchronised(child))
    return module


class Shuffle:
    """Deals the samples of a batch anew to the processes, so that no key shares the batch
    statistics of its query: otherwise the loss can be lowered by reading them (He et al. 2020).
    """

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.order = torch.randperm(count * process_count(), generator=generator)

    def deal(self, clips: Tensor) -> Tensor:
        """Return other samples of the same number, of all processes' clips (B, ...)."""
        if process_count() == 1:
            return clips
        return own_part(gathered(clips)[self.order.to(clips.device)])

    def collect(self, keys: Tensor) -> Tensor:
        """Return the keys (B, d) of this process's own samples, from those that were dealt."""
        if process_count() == 1:
            return keys
        return own_part(gathered(keys)[self.order.argsort().to(keys.device)])
