from __future__ import annotations

import gzip
import io
from pathlib import Path

import polars as pl
import pytest

from mlkit.core.errors import DataError, UsageError
from mlkit.core.tables import collect, find_column, first_null, need_column, open_table, text, times


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(path: Path | str, known: tuple[str, ...] = ()) -> tuple[list[str], list[tuple[str, ...]]]:
    sheet = open_table(path, known)
    return list(sheet.columns), collect(sheet, [pl.col(sheet.columns)]).rows()


@pytest.mark.parametrize(
    ("name", "content", "columns", "first"),
    [
        ("a.csv", "user,item\nu1,007\n", ["user", "item"], ("u1", "007")),
        ("a.tsv", "user\titem\nu1\t007\n", ["user", "item"], ("u1", "007")),
        ("a.csv", "user;item\nu1;007\n", ["user", "item"], ("u1", "007")),
        ("a.csv", 'user,"item"\nu1,"a, b"\n', ["user", "item"], ("u1", "a, b")),
        ("a.csv", "\ufeffuser,item\nu1,é\n", ["user", "item"], ("u1", "é")),
        ("a.csv", "1,2,3\n4,5,6\n", ["1", "2", "3"], ("1", "2", "3")),
        ("a.inter", "user_id:token\titem_id:token\n1\t2\n", ["user_id", "item_id"], ("1", "2")),
        ("a.dat", "1::10::5::978\n", ["1", "2", "3", "4"], ("1", "10", "5", "978")),
        ("a.json", '{"u":"A","t":12,"z":{}}\n{"u":"B","t":1.5}\n', ["u", "t"], ("A", "12")),
        ("a.txt", "u1 a b\nu2 c\n", ["line"], ("u1 a b",)),
    ],
)
def test_formats_are_told_by_their_content(
    tmp_path: Path, name: str, content: str, columns: list[str], first: tuple[str, ...]
) -> None:
    path = write(tmp_path / name, content)
    assert rows(path)[0] == columns
    assert rows(path)[1][0] == first
    packed = write(tmp_path / f"{name}.gz", gzip.compress(content.encode()))
    assert rows(packed) == rows(path)


def test_a_known_name_makes_a_header_of_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "user,2020\nu,5\n")
    assert rows(path)[0] == ["1", "2"]
    assert rows(path, ("user",))[0] == ["user", "2020"]


def test_parquet(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": [1, 2], "labels": [["a"], ["b"]], "t": [1.5, 2.5]})
    frame.write_parquet(tmp_path / "a.parquet")
    sheet = open_table(tmp_path / "a.parquet")
    assert collect(sheet, [pl.col("user"), pl.col("t")]).rows() == [("1", "1.5"), ("2", "2.5")]
    with pytest.raises(DataError, match="not a readable parquet"):
        open_table(write(tmp_path / "b.parquet", "user,item\n"))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"user,item\na,b\n"))
    monkeypatch.setattr("sys.stdin", stdin)
    assert rows("-") == (["user", "item"], [("a", "b")])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"\na,b\n", "line 1 is empty"),
        (b"a,b,a\n1,2,3\n", "'a' stands twice"),
        (b"a,b\n1,2,3\n", "more fields"),
        (b"a,b\n1,\xff\n", "utf-8"),
        (b'a,b\n"x,1\n2,3\n', "not a well-formed table"),
        (b"{bad\n", "line 1 is not JSON"),
        (b"PK\x00\x01,\x02\n", "not a text table"),
        (gzip.compress(b"a,b\n1,2\n" * 1000, mtime=0)[:40], "cannot read"),
    ],
)
def test_unusable_tables_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = write(tmp_path / "a.csv", content)
    with pytest.raises(DataError, match=said) as caught:
        rows(path)
    assert str(path) in caught.value.message


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_table(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a folder"):
        open_table(tmp_path)


def test_columns_are_guessed_or_named(tmp_path: Path) -> None:
    sheet = open_table(write(tmp_path / "a.csv", "User_ID,sku\n1,2\n"))
    assert find_column(sheet, ("uid", "user_id"), None, "--user-col") == "User_ID"
    assert find_column(sheet, ("time",), None, "--time-col") is None
    assert need_column(sheet, "item", ("item",), "sku", "--item-col") == "sku"
    with pytest.raises(DataError, match="no time column; found User_ID, sku") as caught:
        need_column(sheet, "time", ("time",), None, "--time-col")
    assert "--time-col" in caught.value.hint
    with pytest.raises(UsageError, match="--item-col skv"):
        find_column(sheet, ("item",), "skv", "--item-col")


def test_times_keep_their_order(tmp_path: Path) -> None:
    cells = {
        "integers": ["10", "9", "1700000000000000001", "1700000000000000002"],
        "decimals": ["1.5", "1", "2e3", "-4"],
        "iso": ["2020-01-02", "2020-01-01T23:59:59", "2020-01-02T00:00:00.5Z", "2020-01-02 01:00"],
        "zones": [f"2020-01-01T0{h}:00:00+0{h}:00" for h in (1, 2, 3, 4)],
    }
    path = write(
        tmp_path / "a.csv",
        "\n".join([",".join(cells), *(",".join(row) for row in zip(*cells.values(), strict=True))]),
    )
    sheet = open_table(path)
    found = {name: collect(sheet, [times(sheet, name)]).to_series().to_list() for name in cells}
    assert found["integers"] == [10, 9, 1700000000000000001, 1700000000000000002]
    assert found["decimals"] == [1.5, 1.0, 2000.0, -4.0]
    iso = [value - found["iso"][0] for value in found["iso"]]
    assert iso == [0, -1_000_000, 500_000, 3_600_000_000]
    assert len(set(found["zones"])) == 1


def test_the_line_of_a_bad_cell(tmp_path: Path) -> None:
    sheet = open_table(write(tmp_path / "a.csv", "t,kind\n1,a\nx,b\n ,b\n2,b\n"))
    values = collect(sheet, [times(sheet, "t")]).to_series()
    assert first_null(sheet, values, "t") == "line 3 has 'x' in column t"
    only = pl.col("kind") == "b"
    blank = collect(sheet, [text("t")], only).to_series()
    assert first_null(sheet, blank, "t", only) == "line 4 has nothing in column t"
    assert first_null(sheet, blank.head(1), "t", only) is None
