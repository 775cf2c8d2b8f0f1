"""A Kalman filter of boxes with constant velocity (the motion model of SORT), in numpy.

Bewley et al. 2016. The state is centre, size and their velocities per second; noise grows with
the height of the box, as in DeepSORT. All tracks are predicted at once.
"""

from __future__ import annotations

import numpy as np

from .boxes import Array, centres

POSITION, VELOCITY = 1 / 20, 1 / 6  # noise in box heights (per second for the velocity)


class Kalman:
    """Filters of n boxes: `mean` (n, 8), `covariance` (n, 8, 8)."""

    def __init__(self) -> None:
        self.mean = np.zeros((0, 8))
        self.covariance = np.zeros((0, 8, 8))

    def append(self, boxes: Array) -> None:
        """Start filters at boxes (m, 4), at rest."""
        height = np.maximum(boxes[:, 3], 1.0)
        spread = np.concatenate(
            (np.repeat(2 * POSITION, 4), np.repeat(60 * VELOCITY, 4))
        ) * height[:, None]  # fmt: skip
        start = np.concatenate((_measure(boxes), np.zeros((len(boxes), 4))), axis=1)
        self.mean = np.concatenate((self.mean, start))
        fresh = np.einsum("ni,ij->nij", spread**2, np.eye(8))
        self.covariance = np.concatenate((self.covariance, fresh))

    def keep(self, chosen: Array) -> None:
        """Drop all filters but `chosen` (indices or bool)."""
        self.mean, self.covariance = self.mean[chosen], self.covariance[chosen]

    def predict(self, seconds: float) -> Array:
        """Move all filters on by `seconds` and return the boxes (n, 4) that they expect."""
        step = np.eye(8)
        step[:4, 4:] = seconds * np.eye(4)
        height = np.maximum(self.mean[:, 3], 1.0)[:, None]
        noise = np.concatenate((np.full(4, POSITION), np.full(4, VELOCITY)))
        self.mean = self.mean @ step.T
        spread = (noise * height) ** 2 * max(1.0, 30 * seconds)
        drift = np.einsum("ni,ij->nij", spread, np.eye(8))
        self.covariance = step @ self.covariance @ step.T + drift
        self.mean[:, 2:4] = np.maximum(self.mean[:, 2:4], 1.0)
        return self.boxes()

    def update(self, rows: Array, boxes: Array) -> None:
        """Correct the filters `rows` by the boxes (m, 4) that were seen."""
        mean, covariance = self.mean[rows], self.covariance[rows]
        noise = (POSITION * np.maximum(mean[:, 3], 1.0))[:, None] ** 2
        innovation = covariance[:, :4, :4] + np.einsum(
            "ni,ij->nij", np.repeat(noise, 4, 1), np.eye(4)
        )
        gain = covariance[:, :, :4] @ np.linalg.inv(innovation)
        surprise = (_measure(boxes) - mean[:, :4])[..., None]
        self.mean[rows] = mean + (gain @ surprise)[..., 0]
        self.covariance[rows] = covariance - gain @ innovation @ gain.transpose(0, 2, 1)

    def boxes(self) -> Array:
        """Return the boxes (n, 4) of the current states."""
        return np.concatenate((self.mean[:, :2] - self.mean[:, 2:4] / 2, self.mean[:, 2:4]), axis=1)


def _measure(boxes: Array) -> Array:
    return np.concatenate((centres(boxes), boxes[:, 2:]), axis=1)
