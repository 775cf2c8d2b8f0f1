from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mlkit.core import retrieval
from mlkit.core.retrieval import top_k


def brute(queries: Tensor, items: Tensor) -> Tensor:
    """f(q, i) = max_k q_k . i, one product at a time."""
    parts = queries if queries.dim() == 3 else queries[:, None]
    return torch.stack([(part @ items.T).max(0).values for part in parts])


@pytest.mark.parametrize("shape", [(7, 6), (7, 3, 6)])
@pytest.mark.parametrize("block", [1, 1 << 22])
def test_blocked_search_is_exact(
    shape: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "BLOCK_SCORES", block)
    queries, items = torch.randn(shape), torch.randn(1000, 6)
    scores, numbers = top_k(queries, items, 20, skip_first=1)
    wanted = brute(queries, items)
    wanted[:, 0] = -torch.inf
    torch.testing.assert_close(scores, wanted.topk(20).values)
    torch.testing.assert_close(wanted.gather(1, numbers), scores)


def test_excluded_pairs_never_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "BLOCK_SCORES", 1)
    queries, items = torch.randn(5, 4), torch.randn(700, 4)
    exclude = torch.randint(5, (900,)), torch.randint(700, (900,))
    scores, numbers = top_k(queries, items, 50, exclude=exclude)
    wanted = brute(queries, items)
    wanted[exclude] = -torch.inf
    torch.testing.assert_close(scores, wanted.topk(50).values)
    pairs = set(zip(*(part.tolist() for part in exclude), strict=True))
    assert not any((q, i) in pairs for q in range(5) for i in numbers[q].tolist())


def test_short_catalogues_end_with_minus_one() -> None:
    queries, items = torch.randn(2, 4), torch.randn(6, 4)
    exclude = torch.zeros(4, dtype=torch.int64), torch.tensor([1, 2, 3, 4])
    scores, numbers = top_k(queries, items, 10, skip_first=1, exclude=exclude)
    assert numbers.shape == (2, 5)
    assert numbers[0].tolist() == [5, -1, -1, -1, -1]
    assert scores[0, 1:].tolist() == [-torch.inf] * 4
    assert sorted(numbers[1].tolist()) == [1, 2, 3, 4, 5]
