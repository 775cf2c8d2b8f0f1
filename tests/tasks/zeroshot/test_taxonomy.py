from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from mlkit.core.errors import DataError
from mlkit.tasks.zeroshot.classes import (
    candidates,
    find_class,
    imagenet,
    read_classes,
    split_classes,
    split_of,
)
from mlkit.tasks.zeroshot.closure import close
from mlkit.tasks.zeroshot.taxonomy import Taxonomy, open_taxonomy


@pytest.fixture(scope="module")
def wordnet() -> Taxonomy:
    return open_taxonomy("wordnet")


def pairs_of(taxonomy: Taxonomy) -> set[tuple[str, str]]:
    return {(taxonomy.ids[a], taxonomy.ids[b]) for a, b in taxonomy.edges.tolist()}


TREE = {("poodle", "dog"), ("dog", "animal"), ("cat", "animal"), ("poodle", "pet")}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.tsv", "poodle\tdog\ndog\tanimal\n# a remark\ncat\tanimal\npoodle\tpet\npet\t\n"),
        ("t.txt", "poodle: dog\ndog: animal\ncat: animal\npoodle: pet\n"),
        ("t.json", json.dumps({"poodle": ["dog", "pet"], "dog": "animal", "cat": "animal"})),
        ("n.json", json.dumps({"animal": {"dog": {"poodle": "pet"}, "cat": None}, "pet": ""})),
        ("s.tsv", "wnid\tlemmas\thypernyms\tdefinition\npoodle\tpoodle|caniche\tdog|pet\tcurly\n"
                  "dog\tdog\tanimal\t\ncat\tcat\tanimal\t\nanimal\tanimal\t\t\npet\tpet\t\t\n"),
    ],
)  # fmt: skip
def test_every_form_of_a_taxonomy(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    taxonomy = open_taxonomy(str(tmp_path / name))
    assert pairs_of(taxonomy) == TREE
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    assert pairs_of(open_taxonomy(str(tmp_path / f"{name}.gz"))) == TREE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a\tb\nb\tc\nc\ta\n", "has a cycle: "),
        ("a\ta\n", "has a cycle: a -> a"),
        ("\tb\n", "line 1: no class before the parent"),
        ("{broken", "is not valid JSON"),
        ('{"a": [1]}', "the parents of 'a' are not names"),
        ("wnid\tlemmas\thypernyms\nn1\tone\n", "line 2: 2 cells"),
        ("wnid\tlemmas\thypernyms\nn1\tone\t\nn1\tuno\t\n", "'n1' stands twice"),
    ],
)
def test_what_is_wrong_with_a_taxonomy(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(DataError, match=said):
        open_taxonomy(str(tmp_path / "t.tsv"))
    with pytest.raises(DataError, match="cannot read"):
        open_taxonomy(str(tmp_path / "missing.tsv"))


def test_wordnet_is_complete(wordnet: Taxonomy) -> None:
    assert (len(wordnet), len(wordnet.edges)) == (82_115, 75_850)
    place = wordnet.index["n02084071"]
    assert wordnet.title(place) == "dog"
    assert wordnet.text(place).startswith("dog, domestic dog, Canis familiaris: a member of")
    lists = imagenet()
    assert [len(lists[k]) for k in ("train_1k", "2-hops", "3-hops", "all")] == [
        1000, 1549, 7860, 20842,
    ]  # fmt: skip
    assert all(wnid in wordnet.index for wnid in lists["structure_nodes"])


def test_a_subset_keeps_the_edges_inside_and_the_order(wordnet: Taxonomy) -> None:
    chosen = [wordnet.index[w] for w in ("n02084071", "n02083346", "n02075296")]
    small = wordnet.subset(chosen)
    assert small.ids == ("n02084071", "n02083346", "n02075296")
    assert small.edges.tolist() == [[0, 1], [1, 2]]
    assert small.definition(1) == wordnet.definition(chosen[1])
    assert close(3, small.edges).ancestors(0)[1].tolist() == [0, 1, 2]


def test_classes_by_id_by_name_and_by_both(wordnet: Taxonomy, tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text("# animals\nokapi\nn02391994\nmy crane\tn02012849\nGiant Panda\nokapi\n\n")
    chosen = read_classes(path, wordnet)
    assert [wordnet.title(p) for p in chosen.places] == ["okapi", "rhinoceros", "crane",
                                                         "giant panda"]  # fmt: skip
    assert chosen.labels == ("okapi", "rhinoceros", "my crane", "Giant Panda")
    assert split_classes("okapi, giant+panda", wordnet).places == (
        chosen.places[0],
        chosen.places[3],
    )


def test_senses_are_listed(wordnet: Taxonomy) -> None:
    with pytest.raises(DataError, match=r"list: 'crane' has 5 senses: n\d{8} \(.+\); ") as caught:
        find_class("crane", wordnet, "list")
    assert caught.value.hint == "write the id of one of them"
    assert "large long-necked wading bird" in caught.value.message


def test_spellings_are_offered(wordnet: Taxonomy) -> None:
    with pytest.raises(DataError, match="'okappi' is not in the graph") as caught:
        find_class("okappi", wordnet)
    assert "okapi" in caught.value.hint
    with pytest.raises(DataError) as caught:
        find_class("qqqqqqqqqq", wordnet)
    assert "no name is similar" in caught.value.hint


def test_offsets_of_another_wordnet_are_told(wordnet: Taxonomy, tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    wnids = list(wordnet.ids[:30])
    path.write_text("\n".join([*wnids[:26], "n00000001", "n00000002", "n00000003", "n00000004"]))
    with pytest.raises(
        DataError, match="4 of 30 ids are unknown, the first is n00000001"
    ) as caught:
        read_classes(path, wordnet)
    assert "WordNet 3.0" in caught.value.hint
    path.write_text("")
    with pytest.raises(DataError, match="names no class"):
        read_classes(path, wordnet)
    with pytest.raises(DataError, match="cannot read"):
        read_classes(tmp_path / "none.txt", wordnet)


def test_splits_are_those_that_the_graph_has(wordnet: Taxonomy) -> None:
    assert len(candidates("2-hops", wordnet)) == 1549
    small = wordnet.subset([wordnet.index[imagenet()["2-hops"][0]]])
    assert len(split_of("2-hops", small)) == 1
    with pytest.raises(DataError, match="knows none"):
        split_of("all", wordnet.subset([0]))
