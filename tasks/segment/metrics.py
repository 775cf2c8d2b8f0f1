"""Overall and mean IoU, and precision at thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Overlap:
    """Pixels in both masks, and in at least one."""

    inside: int
    joined: int

    @classmethod
    def of(cls, found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Overlap:
        """Count the pixels of two masks of the same size."""
        return cls(int((found & truth).sum()), int((found | truth).sum()))

    @property
    def iou(self) -> float:
        """Intersection over union; 1 when both masks are empty (nothing was meant or found)."""
        return self.inside / self.joined if self.joined else 1.0


def summarise(overlaps: Sequence[Overlap]) -> dict[str, float]:
    """Return overall IoU (sum over sum), mean IoU, and prec@0.5 to prec@0.9, in [0, 1].

    Large objects dominate the overall IoU. prec@X is the share with an IoU of at least X.
    """
    ious = np.array([overlap.iou for overlap in overlaps])
    joined = sum(overlap.joined for overlap in overlaps)
    inside = sum(overlap.inside for overlap in overlaps)
    scores = {"overall": inside / joined if joined else 1.0, "mean": float(ious.mean())}
    return scores | {f"prec@{x}": float((ious >= x).mean()) for x in THRESHOLDS}
