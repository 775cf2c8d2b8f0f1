from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import polars as pl
import pytest
import torch

from mlkit.core.errors import DataError, UsageError
from mlkit.tasks.recommend.config import ColumnOptions
from mlkit.tasks.recommend.data import Items, from_lists, read_items, read_log

from .helpers import by_name, read, series

WANTED = {"u2": ["b", "a"], "u1": ["a", "c", "b"]}
TIMED = [("u2", "b", 5), ("u1", "a", 1), ("u1", "b", 9), ("u2", "a", 7), ("u1", "c", 4)]


def lines(separator: str, header: str = "") -> str:
    rows = [separator.join(map(str, row)) for row in TIMED]
    return "\n".join([header, *rows] if header else rows) + "\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", lines(",", "user_id,item_id,timestamp")),
        ("a.csv", lines(",", "uid,asin,unixReviewTime")),
        ("a.csv", lines(",", "customer_id,sku,ts").replace("customer_id", "User")),
        ("a.tsv", lines("\t", "user\titem\ttime")),
        ("a.csv", lines(",")),
        ("a.inter", lines("\t", "user_id:token\titem_id:token\ttimestamp:float")),
        ("a.dat", "".join(f"{u}::{i}::3::{t}\n" for u, i, t in TIMED)),
        (
            "a.json",
            "".join(
                json.dumps({"reviewerID": u, "asin": i, "unixReviewTime": t, "x": [1]}) + "\n"
                for u, i, t in TIMED
            ),
        ),
        ("a.txt", "u2 b a\nu1 a c b\n"),
        ("a.txt", "u2 b\nu2 a\nu1 a\nu1 c\nu1 b\n"),
    ],
)
def test_every_format_gives_the_same_sequences(tmp_path: Path, name: str, content: str) -> None:
    assert by_name(read(tmp_path, content, name)) == WANTED
    packed = gzip.compress(content.encode())
    assert by_name(read(tmp_path, packed, f"{name}.gz")) == WANTED


def test_parquet_and_named_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    frame = pl.DataFrame(TIMED, schema=["who", "what", "when"], orient="row")
    frame.write_parquet(path)
    options = ColumnOptions(user_col="who", item_col="what", time_col="when")
    assert by_name(read_log(path, options)) == WANTED


def test_equal_times_keep_the_order_of_the_file_and_ids_are_texts(tmp_path: Path) -> None:
    log = read(tmp_path, "user,item,time\nu,007,1\nu,7,1\nu,07,0\nu,7,1\n")
    assert by_name(log) == {"u": ["07", "007", "7", "7"]}


def test_rows_of_another_kind_are_left_out(tmp_path: Path) -> None:
    content = "1,10,77,pv,5\n1,11,77,buy,6\n1,12,77,pv,4\n"  # Taobao's columns
    log = read(tmp_path, content, where="4=pv", time_col="5")
    assert by_name(log) == {"1": ["12", "10"]}
    with pytest.raises(UsageError, match="no column '9'"):
        read(tmp_path, content, where="9=pv")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("user,rating\n1,2\n", "no item column; found user, rating"),
        ("item,rating\n1,2\n", "no user column"),
        ("user,item,time\n1,2,3\n1,3,soon\n", "line 3 has 'soon' in column time"),
        ("user,item,time\n1,2,2020-01-01\n1,3,2020-13-01\n", "line 3 has '2020-13-01'"),
        ("user,item\n1,2\n,3\n", "line 3 has nothing in column user"),
        ("user,item\n1,2\n1, \n", "line 3 has nothing in column item"),
        ("user,item\n", "no interactions"),
        ("user,item,user\n1,2,3\n", "stands twice"),
        ("", "is empty"),
    ],
)
def test_what_is_wrong_with_a_log_is_said(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path, content)
    assert "log.csv" in caught.value.message


def test_unknown_users_get_similar_names(tmp_path: Path) -> None:
    log = read(tmp_path, "user,item\nanna,1\nbert,1\n")
    assert log.user("bert") == 1
    with pytest.raises(DataError, match="no user 'ana'") as caught:
        log.user("ana")
    assert "anna" in caught.value.hint


def test_sequences_equal_lists() -> None:
    random.seed(0)
    rows = [[random.randint(1, 99) for _ in range(random.randint(0, 9))] for _ in range(40)]
    sequences = from_lists(rows)
    users = torch.tensor([3, 3, 39, 0])
    taken = sequences.take(users)
    assert [taken[i].tolist() for i in range(4)] == [rows[u] for u in users.tolist()]
    even = sequences.keep(sequences.items % 2 == 0)
    assert [even[i].tolist() for i in range(40)] == [[x for x in r if x % 2 == 0] for r in rows]
    first, rest = sequences.cut(sequences.lengths // 3)
    assert [first[i].tolist() for i in range(40)] == [r[: len(r) // 3] for r in rows]
    assert [rest[i].tolist() for i in range(40)] == [r[len(r) // 3 :] for r in rows]
    wanted = [(r[-4:] + [0] * 4)[:4] for r in rows]
    assert sequences.last(4).tolist() == wanted
    assert sequences.last(4, users).tolist() == [wanted[u] for u in users.tolist()]


def items_file(folder: Path, content: str, name: str = "items.csv") -> Path:
    (folder / name).write_text(content)
    return folder / name


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("i.csv", 'movieId,title,genres\n2,"B, the film",y|x\n1,A,x\n9,Z,q\n'),
        ("i.dat", "2::B, the film::y|x\n1::A::x\n"),
    ],
)
def test_items_line_up_with_the_names(tmp_path: Path, name: str, content: str) -> None:
    names = series("1", "2", "3")
    items = read_items(items_file(tmp_path, content, name), names, ColumnOptions())
    assert items.titles is not None
    assert items.titles.to_list() == ["", "A", "B, the film", ""]
    first, last = items.categories("first"), items.categories("last")
    assert first[1] != first[2]
    assert last[1] == last[2]
    assert last[3] not in last[:3]  # an item without a category is its own
    sets = items.label_sets()
    assert sets.sum(1).tolist() == [0, 1, 2, 0]
    assert int((sets[1] & sets[2]).sum()) == 1


def test_headerless_categories_and_other_columns(tmp_path: Path) -> None:
    names = series("1", "2")
    plain = read_items(items_file(tmp_path, "1,7\n2,8\n"), names, ColumnOptions())
    assert plain.labels is not None
    assert plain.labels.to_list() == ["", "7", "8"]
    content = "item_id,brand,category\n2,acme,x\n2,other,y\n"
    extra = read_items(items_file(tmp_path, content), names, ColumnOptions())
    assert extra.extra.to_dict(as_series=False) == {"brand": [None, None, "acme"]}
    with pytest.raises(DataError, match="describes none of the 2 items"):
        read_items(items_file(tmp_path, "item,category\n8,x\n"), names, ColumnOptions())


def test_numbers_of_names() -> None:
    items = Items(series("b", "a"))
    assert items.numbers(pl.Series(["a", "zz", "b", "a", ""])).tolist() == [2, 0, 1, 2, 0]
