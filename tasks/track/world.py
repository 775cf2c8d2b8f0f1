"""How synthetic objects move: simulated once at 30 frames a second, whatever is kept later."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .boxes import Array

FPS = 30
REACH = 0.25  # objects may go this far (in image sizes) beyond the frame
TURN_RATE = 0.3  # sudden stops and reversals per second
MODES = ("straight", "dance", "circle", "drift")


@dataclass(frozen=True)
class Path:
    """One object: `centre` (T, 2), `height` (T,) in pixels, `angle` (T,) in degrees, `flap` (T,).

    `aspect` is width over height, `depth` orders objects (larger is nearer).
    """

    centre: Array
    height: Array
    angle: Array
    flap: Array
    aspect: float
    depth: float

    @property
    def boxes(self) -> Array:
        """Amodal boxes (left, top, width, height), (T, 4)."""
        size = np.stack((self.height * self.aspect, self.height), 1)
        return np.concatenate((self.centre - size / 2, size), 1)


def simulate(
    random: np.random.Generator, frames: int, width: int, height: int, aspect: float
) -> Path:
    """Draw the path of an object: pieces of straight, dancing, circling and drifting motion.

    It moves 0.01 to 0.15 of its width per frame, stops or turns round now and then, changes its
    size, leans, and flaps.
    """
    tall = height * random.uniform(0.2, 0.5)
    speed = tall * aspect * np.exp(random.uniform(np.log(0.01), np.log(0.15)))
    velocity = _velocities(random, frames, speed)
    start = random.uniform((0.0, 0.3 * height), (width, 0.8 * height))
    centre = _inside(start + np.cumsum(velocity, 0), width, height)
    time = np.arange(frames) / FPS
    grow = 1 + 0.2 * np.sin(2 * np.pi * (random.uniform(0.02, 0.1) * time + random.random()))
    lean = random.uniform(0, 8) * np.sin(
        2 * np.pi * (random.uniform(0.1, 0.6) * time + random.random())
    )
    flap = np.sin(2 * np.pi * (random.uniform(0.5, 2) * time + random.random()))
    return Path(
        centre, tall * grow, lean, flap * random.uniform(0, 1), aspect, float(random.random())
    )


def _velocities(random: np.random.Generator, frames: int, speed: float) -> Array:
    """Return pixels per frame, (frames, 2), in pieces of one to three seconds."""
    found = np.zeros((frames, 2))
    heading, begin = random.uniform(0, 2 * np.pi), 0
    while begin < frames:
        length = int(random.uniform(1, 3) * FPS)
        time = np.arange(min(length, frames - begin)) / FPS
        mode = MODES[random.integers(len(MODES))]
        if mode == "dance":
            angle = heading + 1.2 * np.sin(2 * np.pi * random.uniform(0.3, 1.2) * time)
        elif mode == "circle":
            angle = heading + random.choice((-1, 1)) * 2 * np.pi * random.uniform(0.2, 0.6) * time
        elif mode == "drift":
            angle = heading + np.cumsum(random.normal(0, 0.08, len(time)))
        else:
            angle = np.full(len(time), heading)
        pace = np.where(_stops(random, time), 0.0, speed) * _reversals(random, time)
        found[begin : begin + len(time)] = pace[:, None] * np.stack(
            (np.cos(angle), 0.4 * np.sin(angle)), 1
        )
        heading, begin = float(angle[-1]) + random.normal(0, 0.6), begin + length
    return found


def _stops(random: np.random.Generator, time: Array) -> Array:
    """Stand still for up to half a second, at TURN_RATE / 2 per second."""
    if random.random() > TURN_RATE / 2 * len(time) / FPS:
        return np.zeros(len(time), dtype=bool)
    begin = random.uniform(0, time[-1] + 1e-9)
    return (time >= begin) & (time < begin + random.uniform(0.1, 0.5))


def _reversals(random: np.random.Generator, time: Array) -> Array:
    """Turn round at TURN_RATE / 2 per second."""
    flips = random.random(len(time)) < TURN_RATE / 2 / FPS
    return 1 - 2 * (np.cumsum(flips) % 2)


def _inside(path: Array, width: int, height: int) -> Array:
    """Fold a path back at walls beyond the frame, so that objects leave and come again."""
    size = np.array((width, height))
    low, high = -REACH * size, (1 + REACH) * size
    high[1] = 1.05 * height  # feet stay near the ground
    low[1] = 0.15 * height
    span = high - low
    folded = np.abs((path - low + span) % (2 * span) - span)
    return low + folded


def camera(random: np.random.Generator, frames: int, width: int) -> Array:
    """Return pan (x, y) in pixels and zoom per frame, (frames, 3): a smoothed random walk.

    At most 2 % of the width per frame; half of the cameras stand still.
    """
    if random.random() < 0.5:
        return np.concatenate((np.zeros((frames, 2)), np.ones((frames, 1))), 1)
    kernel = np.hanning(2 * FPS)
    noise = random.normal(size=(frames + 2 * FPS, 3))
    smooth = np.stack(
        [np.convolve(noise[:, i], kernel, "same")[FPS : FPS + frames] for i in range(3)], 1
    )
    most = 0.02 * width
    steps = np.clip(smooth * random.uniform(0.02, 0.1) * 0.05 * width, -most, most)
    walk = np.cumsum(steps[:, :2], 0)
    shake = random.normal(0, random.uniform(0, 0.5), (frames, 2))
    zoom = 1 + 0.08 * np.tanh(np.cumsum(smooth[:, 2]) / 200)
    return np.concatenate((0.2 * width * np.tanh(walk / (0.2 * width)) + shake, zoom[:, None]), 1)


def identities(inside: Array, first: int, keep: bool) -> Array:
    """Return the identity of an object in each frame, 0 where it is out of the image.

    Each time it comes back it is someone else, unless `keep`.
    """
    entered = np.diff(inside.astype(int), prepend=0) == 1
    number = np.cumsum(entered) - 1
    return np.where(inside, first + (0 if keep else number), 0)
