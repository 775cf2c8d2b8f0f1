"""Writing a network in a form that runs without mlkit, and proving that it computes the same."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import DataError, MissingExtraError
from .files import check_writable, replacing


def export_network(
    network: nn.Module, example: Tensor, path: Path, overwrite: bool = False
) -> float:
    """Write `network` as ONNX (.onnx, any batch size) or torch.export program (.pt2).

    Returns the largest difference between the outputs of the file and of the network on
    `example`, relative to the largest output. Raises `DataError` when they disagree by more
    than 1e-3, in which case nothing is written.
    """
    check_writable(path, overwrite)
    network = network.cpu().eval()
    with torch.no_grad():
        wanted = network(example)
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own deprecations
        run = _write_onnx if path.suffix == ".onnx" else _write_program
        found = run(network, example, temporary)
        difference = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
        if not difference < 1e-3:
            raise DataError(
                f"the exported model disagrees with the original (relative {difference:.2g})",
                "try the other format (.onnx or .pt2)",
            )
    return difference


def _write_onnx(network: nn.Module, example: Tensor, path: Path) -> Tensor:
    """Write an ONNX file and return its output on `example`, computed by onnxruntime."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise MissingExtraError(error.name or "onnxscript", "export") from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    batch = {0: torch.export.Dim("batch")}
    torch.onnx.export(
        network,
        (example,),
        path,
        input_names=["images"],
        output_names=["outputs"],
        dynamic_shapes=(batch,),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": example.numpy()})[0])


def _write_program(network: nn.Module, example: Tensor, path: Path) -> Tensor:
    """Write a torch.export program and return its output on `example`."""
    torch.export.save(torch.export.export(network, (example,)), path)
    return torch.export.load(path).module()(example)
