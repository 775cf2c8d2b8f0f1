"""The 80 classes of COCO in six groups, for data too small to learn eighty nouns."""

from __future__ import annotations

GROUPS = {
    "person": "person",
    "vehicle": "bicycle,car,motorcycle,airplane,bus,train,truck,boat",
    "animal": "bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe",
    "furniture": "bench,chair,couch,potted plant,bed,dining table,toilet",
    "food": "banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake",
}
OTHER = "object"
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names.split(",")}


def group_of(name: str) -> str:
    """Return the group of a class; everything else is an "object"."""
    return _GROUP_OF.get(name, OTHER)
