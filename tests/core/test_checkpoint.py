from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from mlkit.core import checkpoint
from mlkit.core.checkpoint import Metadata
from mlkit.core.errors import CheckpointError


def test_round_trip_and_identical_bytes(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5)}
    metadata = Metadata("prune", "model", {"x": [1, 2.5, None, "é"]})
    checkpoint.save(tmp_path / "1.safetensors", tensors, metadata)
    checkpoint.save(tmp_path / "2.safetensors", tensors, metadata)
    loaded, found = checkpoint.load(tmp_path / "1.safetensors", "prune")
    assert all(torch.equal(loaded[k], tensors[k]) for k in tensors)
    assert found.content == metadata.content
    one, two = ((tmp_path / f"{i}.safetensors").read_bytes() for i in (1, 2))
    assert one == two


def test_another_method_or_kind_is_refused_with_both_names(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"a": torch.ones(1)}, Metadata("denoise", "model"))
    with pytest.raises(CheckpointError, match=r"'model' of 'denoise'.*'model' of 'prune'"):
        checkpoint.load(path, "prune")
    with pytest.raises(CheckpointError, match="training state"):
        checkpoint.load(path, "denoise", "training state")


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.ones(1)}, foreign)
    assert not checkpoint.is_checkpoint(foreign)
    with pytest.raises(CheckpointError, match="not an mlkit checkpoint"):
        checkpoint.read_metadata(foreign)
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoint.read_metadata(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        checkpoint.read_metadata(tmp_path)
    newer = tmp_path / "newer.safetensors"
    save_file({"a": torch.ones(1)}, newer, {"mlkit": '{"schema": 99}'})
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.read_metadata(newer)
    save_file({"a": torch.ones(1)}, newer, {"mlkit": "{"})
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.read_metadata(newer)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_random_bytes_are_never_a_traceback(tmp_path: Path, data: bytes) -> None:
    for name in ("x.safetensors", "x.pth"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError):
            checkpoint.read_state_dict(tmp_path / name)


class _Evil:
    def __reduce__(self) -> Any:
        return (Path.write_text, (Path("evil"), "ran"))


def test_pickled_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"a": _Evil()}))
    with pytest.raises(CheckpointError, match="plain tensors"):
        checkpoint.read_state_dict(tmp_path / "x.pth")
    torch.save({"a": _Evil()}, tmp_path / "y.pth")
    with pytest.raises(CheckpointError, match="plain tensors"):
        checkpoint.read_state_dict(tmp_path / "y.pth")
    assert not Path("evil").exists()


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s}])
def test_wrappers_and_prefixes_are_removed(tmp_path: Path, wrap: Any) -> None:
    state = {"module.a": torch.ones(2)}
    torch.save(wrap(state), tmp_path / "x.pth")
    assert list(checkpoint.read_state_dict(tmp_path / "x.pth")) == ["a"]


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    state = {"weight": torch.zeros(4, 2), "extra": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_into(model, state, "x.pth")
    for part in ("missing bias", "unexpected extra", "(4, 2)", "(3, 2)"):
        assert part in caught.value.message


_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=3),
    st.integers(1, 3).map(lambda n: torch.arange(n)),
)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.one_of(st.text(max_size=3), st.integers(0, 9)), inner, max_size=3)
    ),
    max_leaves=8,
)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b) and type(a) is type(b)


@given(_TREES)
def test_nested_states_survive(tree: Any) -> None:
    tensors, plain = checkpoint.flatten_state("s", tree)
    assert _equal(checkpoint.restore_state(tensors, plain), tree)
