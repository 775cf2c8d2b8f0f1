"""`forecast`: seconds per round, stacked nodes beside a loop over nodes, and gRPC's echo."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
from torch import nn

from mlkit.tasks.forecast.config import FederationOptions, ModelOptions, RoundOptions, WindowOptions
from mlkit.tasks.forecast.coordinator import Coordinator
from mlkit.tasks.forecast.graph import from_dense
from mlkit.tasks.forecast.join import join
from mlkit.tasks.forecast.node import NodeGroup
from mlkit.tasks.forecast.remote import GrpcTransport
from mlkit.tasks.forecast.transport import LocalTransport

from .timing import cpu_seconds

NODES, STEPS, HIDDEN, BATCH = 25, 3200, 32, 64


def compare() -> list[dict[str, Any]]:
    """All tables, one thread."""
    torch.set_num_threads(1)
    return [*device_phase(), *server_phase(), *echo()]


def _series() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = 50 + torch.randn(NODES, STEPS, generator=generator).cumsum(1)
    return values, torch.arange(STEPS) % 288 / 288


def _engine(method: Any) -> Any:
    values, times = _series()
    generator = torch.Generator().manual_seed(1)
    dense = (torch.rand(NODES, NODES, generator=generator) < 0.4).float().fill_diagonal_(1)
    engine = Coordinator(
        LocalTransport(NodeGroup([str(i) for i in range(NODES)], values, times)),
        from_dense(dense),
        ModelOptions(method=method, hidden=HIDDEN, server_hidden=64, server_size=32),
        WindowOptions(stride=2, eval_stride=4),
        RoundOptions(batch_size=BATCH, teacher=0),
        FederationOptions(),
        0,
    )
    engine.begin()
    return engine


class _Client(nn.Module):
    """One node as most people write it: torch.nn.GRU and a loop over the decoder's steps."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(2, HIDDEN, batch_first=True)
        self.decoder = nn.GRU(2, HIDDEN, batch_first=True)
        self.output = nn.Linear(HIDDEN, 1)

    def forward(self, past: torch.Tensor, clock: torch.Tensor) -> torch.Tensor:
        _, state = self.encoder(past)
        step, outputs = past[:, -1:], []
        for t in range(12):
            out, state = self.decoder(step, state)
            value = self.output(out)
            outputs.append(value)
            step = torch.cat((value, clock[:, t : t + 1, None]), -1)
        return torch.cat(outputs, 1)[..., 0]


def device_phase() -> list[dict[str, Any]]:
    """One epoch of all nodes: stacked, and a loop over nodes with torch.nn.GRU and Adam."""
    engine = _engine("fedavg")
    group = engine.transport.group
    starts = group.starts["train"]

    def loop() -> None:
        for node in range(NODES):
            client = _Client()
            optimizer = torch.optim.Adam(client.parameters(), lr=1e-3)
            for ids in torch.randperm(len(starts)).split(BATCH):
                rows = slice(node, node + 1)
                values, times = group.windows.past(starts[ids][None], rows)
                clock, targets, _ = group.windows.future(starts[ids][None], rows)
                loss = (client(torch.stack((values, times), -1)[0], clock[0]) - targets[0]).square()
                optimizer.zero_grad()
                loss.mean().backward()
                optimizer.step()

    return [
        {"device phase, 25 nodes": name, "cpu s": round(cpu_seconds(function), 2)}
        for name, function in (("stacked", engine._device_phase), ("loop over nodes", loop))
    ]


def server_phase() -> list[dict[str, Any]]:
    """One epoch of the server: encodings kept, and encoded anew for each batch (official code)."""
    engine = _engine("cnfgnn")
    engine.round()

    def anew() -> None:
        real = engine._server_step

        def step(encodings: Any, **batch: Any) -> Any:
            engine.transport.group._states = None
            with torch.no_grad():  # the official program encodes the batch alone
                engine.transport.group._states = engine.encodings["train"]
                chosen = engine.transport.group.starts["train"][: encodings.shape[1]]
                engine.transport.group._encode(engine.weights, chosen)
            return real(encodings, **batch)

        engine._server_step = step
        engine._server_epoch(0)
        engine._server_step = real

    rows = []
    for name, function in (
        ("encodings once per phase", lambda: engine._server_epoch(0)),
        ("encoded for every batch", anew),
    ):
        rows.append({"server phase, 25 nodes": name, "cpu s": round(cpu_seconds(function), 2)})
    return rows


def echo() -> list[dict[str, Any]]:
    """Wall milliseconds of one exchange of 1 MB each way over gRPC on this machine."""

    class Echo(NodeGroup):
        def keep(self, begin: int, embeddings: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"back": embeddings}

    group = Echo(["a"], torch.zeros(1, 100), torch.zeros(100))
    with GrpcTransport(["a"], token="benchmark") as transport:
        thread = threading.Thread(
            target=join, args=(group, f"127.0.0.1:{transport.port}", "benchmark"), daemon=True
        )
        thread.start()
        transport.wait(1, 30, lambda there: None)
        data, times = torch.zeros(1, 250_000), []
        for _ in range(40):
            begin = time.perf_counter()
            transport.call(
                "keep", per_node={"embeddings": data}, expect={"back": (250_000,)}, begin=0
            )
            times.append(1000 * (time.perf_counter() - begin))
        transport.dismiss()
        thread.join(10)
    times.sort()
    return [{"gRPC, 1 MB there and back": "median", "ms": round(times[20], 1),
             "best ms": round(times[0], 1)}]  # fmt: skip
