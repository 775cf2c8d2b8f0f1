"""The machine a method runs on: device, precision, threads, seeds, and torchrun's environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import DeviceError
from .options import RunOptions

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Runtime:
    """What `start` made of the options.

    `rank` and `world_size` are 0 and 1 unless torchrun started several processes.
    """

    device: torch.device
    precision: str
    seed: int
    workers: int
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which forward passes run."""
        import torch

        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)


def start(options: RunOptions) -> Runtime:
    """Seed everything and pick the device; joins the process group when torchrun asks for it.

    Raises `DeviceError` when the device is not there.
    """
    import torch

    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    device = _pick_device(options.device, int(os.environ.get("LOCAL_RANK", "0")))
    if options.precision == "fp16" and device.type == "cpu":
        raise DeviceError("--precision fp16 needs a GPU", "use bf16 or fp32 on a CPU")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Runtime(device, options.precision, options.seed, options.workers, rank, world_size)


def _pick_device(name: str, local_rank: int) -> torch.device:
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank)
        return torch.device("cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        index = local_rank if device.index is None else device.index
        if index >= count:
            raise DeviceError(
                f"--device {name}: this machine has {count} CUDA devices",
                "use --device cpu, or see 'mlkit env'",
            )
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("--device mps: not available on this machine", "use --device cpu")
    return device


@contextmanager
def memory_errors(advice: str) -> Iterator[None]:
    """Turn an out-of-memory failure inside the block into a `DeviceError` with `advice`."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError("the device ran out of memory", advice) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise DeviceError("the machine ran out of memory", advice) from error
        raise


def stream(seed: int, *keys: int) -> torch.Generator:
    """Return a CPU generator that depends on `seed` and `keys` alone.

    Different keys give independent streams, so that work which is skipped on resume does not
    shift the random numbers of the work that follows.
    """
    import numpy as np
    import torch

    state = np.random.SeedSequence((seed, *keys)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) % 2**63)
