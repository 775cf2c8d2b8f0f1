"""A second reader of the generated sentences, which knows nothing of how they were made.

It parses the text with a grammar of its own and answers from what is seen: attributes and the
boxes of masks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from .masks import Mask

Seen = tuple[str, str, str, Mask]  # size, colour, noun, pixels
_NUMBERS = {"first": 0, "second": 1, "third": 2, "fourth": 3}
# Where a thing's box begins the row, as seen from each side: larger is further away from it.
_FROM: dict[str, Callable[[tuple[float, float]], float]] = {
    "left": lambda centre: centre[0],
    "right": lambda centre: -centre[0],
    "top": lambda centre: centre[1],
    "bottom": lambda centre: -centre[1],
}
_BESIDE: dict[str, Callable[[tuple[float, float], tuple[float, float]], bool]] = {
    "left of": lambda a, b: a[0] < b[0],
    "right of": lambda a, b: a[0] > b[0],
    "above": lambda a, b: a[1] < b[1],
    "below": lambda a, b: a[1] > b[1],
}
_RELATION = re.compile(r"^the (.+?) (?:to the )?(left of|right of|above|below) the (.+)$")
_COUNTED = re.compile(r"^the (\w+) (.+) from the (\w+)$")
_EXTREME = re.compile(r"^the (left|right|top|bottom)most (.+)$")


def answer(text: str, seen: Sequence[Seen]) -> int | None:
    """Return the place in `seen` of what a sentence means, None when nothing is meant.

    Raises `ValueError` when several things are meant or the sentence is not of this world.
    """
    centres = [_centre(thing[3]) for thing in seen]
    if match := _RELATION.match(text):
        what, relation, other = match.groups()
        anchor = _single(_select(other, seen), text)
        beside = _BESIDE[relation]
        places = [
            place
            for place in _select(what, seen)
            if anchor is not None and beside(centres[place], centres[anchor])
        ]
        return _single(places, text)
    if match := _EXTREME.match(text):
        side, what = match.groups()
        return min(_select(what, seen), key=lambda place: _FROM[side](centres[place]))
    if match := _COUNTED.match(text):
        number, what, side = match.groups()
        order = sorted(_select(what, seen), key=lambda place: _FROM[side](centres[place]))
        return order[_NUMBERS[number]]
    return _single(_select(text.removeprefix("the "), seen), text)


def _centre(mask: Mask) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return (columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2


def _select(words: str, seen: Sequence[Seen]) -> list[int]:
    """Return the places of things that have every word, except the noun of all things."""
    wanted = set(words.split()) - {"shape"}
    return [place for place, thing in enumerate(seen) if wanted <= set(thing[:3])]


def _single(places: Sequence[int], text: str) -> int | None:
    if len(places) > 1:
        raise ValueError(f"'{text}' means {len(places)} things")
    return places[0] if places else None
