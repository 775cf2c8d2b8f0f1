"""Readers: every format of series and graphs, and what is wrong with bad ones."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import pytest
import torch

from mlkit.core.errors import DataError
from mlkit.tasks.forecast.adjacency import read_graph, read_pickle, read_places
from mlkit.tasks.forecast.config import SeriesOptions
from mlkit.tasks.forecast.data import Series, constant_sensors, read_series

VALUES = np.array([[1.5, 2, 3], [4, 5.5, 6], [7, 8, 9.5], [1, 2, 3]])


def read(path: Path, **options: Any) -> Series:
    return read_series(path, SeriesOptions(**options))


def text(folder: Path, content: str, name: str = "s.csv") -> Path:
    (folder / name).write_text(content)
    return folder / name


def table(head: str = "", first: str = "") -> str:
    rows = [",".join(map(str, row)) for row in VALUES]
    return "\n".join([head, *rows] if head else rows) + "\n"


@pytest.mark.parametrize("head", ["a,b,c", "773869,767541,767542"])
def test_headers_of_names_and_of_numbers(tmp_path: Path, head: str) -> None:
    found = read(text(tmp_path, table(head)))
    assert found.names == tuple(head.split(","))
    assert np.allclose(found.values.numpy(), VALUES.T)
    assert found.step is None
    assert found.times[1] == pytest.approx(1 / 288)


def test_without_a_header_and_gzipped(tmp_path: Path) -> None:
    path = tmp_path / "s.csv.gz"
    path.write_bytes(gzip.compress(table().encode()))
    found = read(path, day_steps=4)
    assert found.names == ("1", "2", "3")
    assert found.times.tolist() == [0, 0.25, 0.5, 0.75]


def test_times_gaps_and_left_out_rows(tmp_path: Path) -> None:
    lines = ["time,a,b", "2024-01-01T06:00,1,", "2024-01-01T06:30,2,nan", "2024-01-01T07:30,4,5"]
    found = read(text(tmp_path, "\n".join(lines)))
    assert found.step == 30 * 60 * 10**6
    assert found.values[0].nan_to_num(-1).tolist() == [1, 2, -1, 4]
    assert found.values[1].nan_to_num(-1).tolist() == [-1, -1, -1, 5]
    assert found.times.tolist() == pytest.approx([0.25, 6.5 / 24, 7 / 24, 7.5 / 24])
    assert found.label(4) == "2024-01-01T08:00:00"
    epochs = read(text(tmp_path, "ts,a\n1704088800,1\n1704090600,2\n1704092400,3\n"))
    assert (epochs.start, epochs.step) == (found.start, found.step)


def test_parquet_and_transposed(tmp_path: Path) -> None:
    pl.DataFrame({"a": VALUES[:, 0], "b": VALUES[:, 1]}).write_parquet(tmp_path / "s.parquet")
    assert np.allclose(read(tmp_path / "s.parquet").values.numpy(), VALUES[:, :2].T)
    rows = "\n".join(f"s{i}," + ",".join(map(str, col)) for i, col in enumerate(VALUES.T))
    found = read(text(tmp_path, rows + "\n"), transpose=True)
    assert found.names == ("s0", "s1", "s2")
    assert np.allclose(found.values.numpy(), VALUES.T)


def test_pandas_hdf5(tmp_path: Path) -> None:
    moments = np.array([0, 300, 600, 1200], np.int64) * 10**9
    with h5py.File(tmp_path / "metr-la.h5", "w") as file:
        group = file.create_group("df")
        group["axis0"] = np.array([b"773869", b"767541", b"767542"])
        group["axis1"] = moments
        group["block0_values"] = VALUES
    found = read(tmp_path / "metr-la.h5")
    assert found.names[0] == "773869"
    assert found.step == 300 * 10**6
    assert found.values.shape == (3, 5)
    assert bool(found.values[:, 3].isnan().all())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = VALUES
    with pytest.raises(DataError, match="no table of pandas"):
        read(tmp_path / "other.h5")
    (tmp_path / "broken.h5").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a readable HDF5"):
        read(tmp_path / "broken.h5")


def test_npz_of_series_and_of_windows(tmp_path: Path) -> None:
    features = np.stack((VALUES, VALUES + 100), -1)
    np.savez(tmp_path / "pems04.npz", data=features)
    assert np.allclose(read(tmp_path / "pems04.npz").values.numpy(), VALUES.T)
    long = np.arange(20.0)[:, None] * np.array([1, 2])
    x = np.stack([long[i : i + 4] for i in range(13)])[..., None]
    y = np.stack([long[i + 4 : i + 8] for i in range(13)])[..., None]
    np.savez(tmp_path / "train.npz", x=x, y=y)
    assert np.allclose(read(tmp_path / "train.npz").values.numpy(), long.T)
    np.savez(tmp_path / "holes.npz", x=x[::2], y=y[::2])
    with pytest.raises(DataError, match="not one step apart"):
        read(tmp_path / "holes.npz")
    np.savez(tmp_path / "else.npz", z=x)
    with pytest.raises(DataError, match="holds z"):
        read(tmp_path / "else.npz")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="not a readable array"):
        read(tmp_path / "objects.npy")


def test_zeros_that_mean_not_measured(tmp_path: Path) -> None:
    path = text(tmp_path, "a,b\n0,1\n2,0\n3,4\n")
    assert int(read(path).values.isnan().sum()) == 0
    assert int(read(path, missing="0").values.isnan().sum()) == 2
    gap = text(tmp_path, "a,b\n1,1\n,2\n", "gap.csv")
    with pytest.raises(DataError, match="sensor a has no value at step 2"):
        read(gap, missing="none")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n3,fast\n", "line 3 has 'fast' in column b"),
        ("a,b\n1,\n3,\n", "no value at all for b"),
        ("time,a\n2024-01-01,1\n2024-01-01,2\n", "line 3 is not later"),
        ("time,a\n2024-01-02,1\n2024-01-01,2\n", "line 3 is not later"),
        ("time,a\n2024-01-01,1\n2024-01-02,2\n2024-01-03,2\n2024-01-03T05:00,3\n", "off the grid"),
        ("time,a\n2024-01-01,1\nsoon,2\n", "line 3 has 'soon'"),
        ("time\n2024-01-01\n2024-01-02\n", "no series"),
        ("a,a\n1,2\n", "'a' stands twice"),
        ("a,b\n", "no rows"),
        ("a,b\n1,2\n3,inf\n", "sensor b is infinite at step 2"),
    ],
)
def test_bad_series_are_named(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(text(tmp_path, content))


def test_constant_sensors_are_found(tmp_path: Path) -> None:
    assert constant_sensors(read(text(tmp_path, "a,b\n1,5\n2,5\n3,\n"))) == ["b"]


# --- graphs ---

NAMES = ("a", "b", "c")
WANTED = torch.tensor([[1, 0.5, 0], [0.25, 1, 0], [0, 0, 1]])


def graph(path: Path, names: tuple[str, ...] = NAMES, kind: Any = "auto") -> torch.Tensor:
    return read_graph(path, names, kind, lambda said: None).dense()


def test_matrices_lists_and_loops(tmp_path: Path) -> None:
    dense = "1,0.5,0\n0.25,1,0\n0,0,0\n"
    said: list[str] = []
    found = read_graph(text(tmp_path, dense), NAMES, "auto", said.append)
    assert torch.equal(found.dense(), WANTED)
    assert "directed" in said[0]
    assert "1 self loops" in said[1]
    assert torch.equal(graph(text(tmp_path, "a,b,c\n" + dense)), WANTED)
    named = "id,a,b,c\na,1,0.5,0\nb,0.25,1,0\nc,0,0,1\n"
    assert torch.equal(graph(text(tmp_path, named)), WANTED)
    order = graph(text(tmp_path, "c,b,a\n1,0,0\n0,1,0.25\n0,0.5,1\n"))
    assert torch.equal(order, WANTED)


@pytest.mark.parametrize("head", ["from,to,distance\n", ""])
def test_edge_lists_become_weights(tmp_path: Path, head: str) -> None:
    roads = {("a", "b"): 100.0, ("b", "a"): 120.0, ("b", "c"): 400.0, ("x", "a"): 5.0}
    lines = head + "".join(f"{i},{j},{d}\n" for (i, j), d in roads.items())
    found = graph(text(tmp_path, lines), kind="distances")
    scale = np.std([100, 120, 400])
    assert float(found[0, 1]) == pytest.approx(np.exp(-((100 / scale) ** 2)), rel=1e-5)
    assert float(found[1, 2]) == 0  # below the threshold
    assert float(found[0, 2]) == 0  # not in the list
    assert bool((found.diagonal() == 1).all())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("1,0\n0,1\n", "the graph has 2 nodes, the data has 3"),
        ("1,0,0\n0,1,0\n0,-2,1\n", "from c to b is negative"),
        ("1,0,0\n0,1,far\n0,0,1\n", "row 2, column 3 holds no number"),
        ("1,0\n0,1\n1,1\n", "3 rows and 2 columns"),
        ("from,to,distance\nx,y,5\nz,x,4\n", "joins none of the sensors; it holds x, z"),
        ("from,to,distance\na,b,5\nb,c,-4\n", "line 3 has the negative distance -4"),
        ("from,to,distance\na,b,5\nb,c,near\n", "line 3 has 'near'"),
        ("x,y,z\n1,0,0\n0,1,0\n0,0,1\n", "does not know a, b, c"),
    ],
)
def test_bad_graphs_are_named(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        graph(text(tmp_path, content))


def test_pickles_of_dcrnn(tmp_path: Path) -> None:
    path = tmp_path / "adj.pkl"
    ids = ["b", "a", "c"]
    matrix = WANTED.numpy()[[1, 0, 2]][:, [1, 0, 2]]
    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps([ids, {n: i for i, n in enumerate(ids)}, matrix], protocol))
        assert torch.equal(graph(path), WANTED)
    assert read_pickle(path)[0] == ("b", "a", "c")


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


def test_pickles_that_run_code_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "adj.pkl"
    path.write_bytes(pickle.dumps([["a"], {}, Evil()]))
    with pytest.raises(DataError, match=r"refused: contains (posix|nt|os)\.system"):
        read_pickle(path)
    assert not (tmp_path / "pwned").exists()
    for bad in (b"", b"rubbish", pickle.dumps([1, 2]), pickle.dumps([["a"], {}, np.eye(2)])):
        path.write_bytes(bad)
        with pytest.raises(DataError):
            read_pickle(path)


def test_places(tmp_path: Path) -> None:
    path = text(tmp_path, "index,sensor_id,latitude,longitude\n0,b,34.1,-118\n1,a,34.2,-119\n")
    latitude, longitude = read_places(path, ("a", "b"))
    assert latitude.tolist() == [34.2, 34.1]
    assert longitude.tolist() == [-119, -118]
    bare = text(tmp_path, "400001,37.36,-121.9\n400017,37.25,-121.8\n", "bare.csv")
    assert read_places(bare, ("400017",))[0].tolist() == [37.25]
    with pytest.raises(DataError, match="no place for c"):
        read_places(path, ("a", "c"))
