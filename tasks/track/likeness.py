"""Which given box continues which track: by what their queries hold, and by place."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .geometry import overlaps
from .queries import TrackQueries

SCALE, LEAST_COSINE = 10.0, 0.5  # of the cosine, where training starts
LEAST_OVERLAP = 0.3
FARTHEST = 8.0  # sizes of the box; farther is as far


class Likeness(nn.Module):
    """Logits that a given box is what a track follows: above 0 where this is likelier than not.

    The cosine of the projected contents of the box's detect query and of the track's queries,
    main and historical alike, plus what the place says: the overlap with the box to which the
    track's last move would lead, and a small network on overlaps with and shifts from this one,
    the last and the predicted box. Training starts where overlap decides.
    """

    def __init__(self, dim: int, hidden: int = 32) -> None:
        super().__init__()
        self.project = nn.Linear(dim, dim)
        self.scale = nn.Parameter(torch.tensor(SCALE))
        last = nn.Linear(hidden, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.place = nn.Sequential(nn.Linear(11, hidden), nn.ReLU(), last)

    def forward(
        self,
        contents: Tensor,
        owner: Tensor,
        tracks: TrackQueries,
        predicted: Tensor,
        found: Tensor,
        boxes: Tensor,
    ) -> Tensor:
        """Return logits (n, N) for n tracks and N boxes.

        `contents` (n + h, d) are those of main and historical queries, of the tracks `owner`
        (n + h,); `predicted` (n, 4) are the tracks' predictions; `found` (N, d) are the contents
        of the detect queries that started at `boxes` (N, 4).
        """
        cosine = (
            F.normalize(self.project(contents), dim=-1) @ F.normalize(self.project(found), dim=-1).T
        )
        total = cosine.new_zeros(len(tracks), len(boxes)).index_add(0, owner, cosine)
        count = torch.bincount(owner, minlength=len(tracks))[:, None]
        moved = tracks.boxes + tracks.moved
        quality = overlaps(moved, boxes)
        place = torch.cat(
            (
                shifts(tracks.boxes, boxes),
                shifts(moved, boxes),
                torch.stack(
                    (quality, overlaps(tracks.boxes, boxes), overlaps(predicted, boxes)), -1
                ),
            ),
            -1,
        )
        by_content = self.scale * (total / count - LEAST_COSINE)
        by_place = SCALE * (quality - LEAST_OVERLAP) + self.place(place)[..., 0]
        return by_content + by_place


def shifts(old: Tensor, new: Tensor) -> Tensor:
    """Return (n, N, 4): how boxes (N, 4) lie to boxes (n, 4), centre and size, in old sizes."""
    size = old[:, None, 2:].clamp_min(1e-3)
    centre = (new[None, :, :2] - old[:, None, :2]) / size
    ratio = (new[None, :, 2:].clamp_min(1e-3) / size).log()
    return torch.cat((centre, ratio), -1).clamp(-FARTHEST, FARTHEST)


def likeness_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy, summed, of each track's box and of each box's track.

    `target` (n,) is the box of each track, or -1. Nothing has the logit 0.
    """
    tracks, boxes = logits.shape
    wanted = torch.where(target >= 0, target, boxes)
    owner = torch.full((boxes,), tracks, dtype=torch.int64, device=logits.device)
    held = (target >= 0).nonzero()[:, 0]
    owner[target[held]] = held
    nothing = F.pad(logits.float(), (0, 1))
    nobody = F.pad(logits.float().T, (0, 1))
    return F.cross_entropy(nothing, wanted, reduction="sum") + F.cross_entropy(
        nobody, owner, reduction="sum"
    )


def share_out(logits: Tensor) -> Tensor:
    """Return the box of each track (n,), or -1, one to one, with the largest sum of logits."""
    from scipy.optimize import linear_sum_assignment

    quality = logits.float().cpu().numpy()
    rows, columns = linear_sum_assignment(-np.maximum(quality, 0))
    good = quality[rows, columns] > 0
    place = torch.full((len(quality),), -1, dtype=torch.int64)
    place[torch.from_numpy(rows[good])] = torch.from_numpy(columns[good])
    return place.to(logits.device)
