"""Forecasts of a trained network: nodes encode, the server embeds, nodes decode."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.errors import CheckpointError
from ...core.progress import Progress, Silent
from .checkpoint import LEVELS, Trained
from .data import Series
from .diffusion import DiffusionNetwork, diffuse, scaled_laplacian
from .graph import Graph
from .node import NodeGroup

WINDOWS_AT_ONCE = 64


class Predictor:
    """A trained network on some series, which may be of other sensors than it was trained on."""

    def __init__(
        self, trained: Trained, series: Series, graph: Graph, device: str | torch.device = "cpu"
    ) -> None:
        self.trained, self.series = trained, series
        settings = trained.settings
        self.place = {name: i for i, name in enumerate(trained.names)}
        self.seen = torch.tensor([name in self.place for name in series.names])
        shared = len(trained.device) == 1
        if not shared and not bool(self.seen.all()):
            raise CheckpointError(
                f"{trained.name} ({trained.model.method}) has no weights for sensors "
                f"{self._unknown()}",
                "train with --method cnfgnn or fedavg to serve sensors never seen",
            )
        longer = series.extended(settings.horizon)
        group = NodeGroup(series.names, series.values.to(device), longer.times.to(device))
        group.prepare(settings)
        group.standardise(trained.scaler.mean, trained.scaler.std)
        rows = torch.tensor([self.place.get(name, 0) for name in series.names])
        group.take((trained.device if shared else trained.device[rows]).to(device))
        if trained.personal is not None:
            own = torch.where(self.seen[:, None], trained.personal[rows], trained.device)
            group.personal = own.to(device)
        self.group, self.graph = group, graph.to(device)
        network = trained.graph_network()
        self.server = network.to(device) if network is not None else None

    def _unknown(self) -> str:
        return ", ".join(n for n in self.series.names if n not in self.place)[:80]

    @torch.no_grad()
    def forecast(
        self, starts: Tensor, progress: Progress | None = None, title: str = "forecasting"
    ) -> Tensor:
        """Return forecasts (N, B, H) on the CPU of the windows that start at `starts` (B,)."""
        found = []
        with (progress or Silent()).task(title, len(starts)) as task:
            for part in starts.split(WINDOWS_AT_ONCE):
                part = part.to(self.group.device)
                found.append(self._windows(part).cpu())
                task.advance(len(part))
        return torch.cat(found, 1)

    def _windows(self, starts: Tensor) -> Tensor:
        if isinstance(self.server, DiffusionNetwork):
            return diffuse(self.server, scaled_laplacian(self.graph), self.group, starts)
        self.group.starts = {"test": starts}
        encodings = self.group.encode("test", 0, len(starts), 0)["encodings"]
        if self.server is None:
            embeddings = encodings[..., :0]
        else:
            embeddings = self.server(encodings, self.graph)
        return self.group.forecast(starts, embeddings, self.group.personal)

    def truth(self, starts: Tensor) -> Tensor:
        """Return what was measured, (N, B, H), NaN where nothing was."""
        s = self.trained.settings
        steps = torch.arange(s.history, s.history + s.horizon)
        return self.series.extended(s.horizon).values[:, starts[:, None] + steps]

    def error_quantiles(self, starts: Tensor, progress: Progress | None = None) -> Tensor:
        """Return quantiles (N + 1, H, 6) of truth minus forecast over windows; the last of all."""
        errors = self.truth(starts) - self.forecast(starts, progress, "validation errors")
        levels = torch.tensor(LEVELS)
        per_node = errors.nanquantile(levels, dim=1)  # (6, N, H)
        sample = errors.flatten(0, 1)
        sample = sample[:: max(1, len(sample) // 100_000)]  # quantiles of a large part
        overall = sample.nanquantile(levels, dim=0)
        per_node = per_node.where(~per_node.isnan(), overall[:, None])
        return torch.cat((per_node, overall[:, None]), 1).permute(1, 2, 0).nan_to_num(0)

    def bounds(self, forecast: Tensor, percent: int) -> tuple[Tensor, Tensor] | None:
        """Return lower and upper ends (N, H) of the interval around forecasts (N, H)."""
        errors = self.trained.errors
        if errors is None:
            return None
        rows = torch.tensor([self.place.get(n, len(self.place)) for n in self.series.names])
        low = LEVELS.index(round(0.5 - percent / 200, 4))
        high = LEVELS.index(round(0.5 + percent / 200, 4))
        return forecast + errors[rows][..., low], forecast + errors[rows][..., high]
