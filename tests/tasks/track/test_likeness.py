"""Which given box continues which track."""

from __future__ import annotations

import math
from itertools import permutations

import torch

from mlkit.tasks.track.likeness import FARTHEST, Likeness, likeness_loss, share_out, shifts
from mlkit.tasks.track.queries import TrackQueries


def tracks_at(boxes: torch.Tensor, moved: torch.Tensor | None = None) -> TrackQueries:
    born = TrackQueries.born(torch.zeros(len(boxes), 8), boxes, torch.arange(len(boxes)), 1)
    if moved is None:
        return born
    before = TrackQueries.born(born.main, boxes - moved, born.identity, 1)
    return before.advance(born.main, boxes)


PAIR = torch.tensor([[0.3, 0.5, 0.1, 0.2], [0.7, 0.5, 0.1, 0.2]])


@torch.no_grad()
def test_without_training_boxes_go_to_where_the_last_move_leads() -> None:
    torch.manual_seed(0)
    likeness, contents = Likeness(8), torch.randn(2, 8)
    owner = torch.arange(2)
    still = likeness(contents, owner, tracks_at(PAIR), PAIR, contents, PAIR)
    assert share_out(still).tolist() == [0, 1]
    # They walk towards each other and meet: the next boxes are where the other one was.
    step = torch.tensor([[0.4, 0, 0, 0], [-0.4, 0, 0, 0]])
    same = torch.ones(2, 8)
    walking = likeness(same, owner, tracks_at(PAIR, step), PAIR, same, PAIR)
    assert share_out(walking).tolist() == [1, 0]
    far = likeness(contents, owner, tracks_at(PAIR), PAIR, -contents, PAIR + 0.2)
    assert share_out(far).tolist() == [-1, -1]


@torch.no_grad()
def test_historical_queries_count_as_much_as_the_main_one() -> None:
    torch.manual_seed(1)
    likeness, contents, found = Likeness(8), torch.randn(3, 8), torch.randn(4, 8)
    boxes = torch.rand(4, 4) * 0.3 + 0.2

    def ask(queries: list[int], owner: list[int]) -> torch.Tensor:
        tracks = tracks_at(PAIR[: max(owner) + 1])
        return likeness(contents[queries], torch.tensor(owner), tracks, tracks.boxes, found, boxes)

    # Logits are linear in the cosines, so that a track's are the mean of those of its queries.
    alone = torch.stack([ask([i], [0])[0] for i in range(3)])
    together = ask([0, 1, 2, 0], [0, 1, 0, 0])
    torch.testing.assert_close(together[0], (2 * alone[0] + alone[2]) / 3)
    torch.testing.assert_close(ask([0, 1, 2], [0, 0, 0])[0], alone.mean(0))


def test_shares_have_the_largest_sum_of_positive_logits() -> None:
    generator = torch.Generator().manual_seed(2)
    for tracks, boxes in ((3, 3), (2, 4), (4, 2)):
        logits = torch.randn(tracks, boxes, generator=generator)
        place = share_out(logits)
        taken = place[place >= 0].tolist()
        assert len(taken) == len(set(taken))
        got = sum(float(logits[i, j]) for i, j in enumerate(place.tolist()) if j >= 0)
        slots = [*range(boxes), *[-1] * tracks]
        best = max(
            sum(float(logits[i, j]) for i, j in enumerate(chosen) if j >= 0)
            for chosen in set(permutations(slots, tracks))
        )
        assert abs(got - best) < 1e-5
        assert all(logits[i, j] > 0 for i, j in enumerate(place.tolist()) if j >= 0)
    assert share_out(torch.zeros(0, 3)).tolist() == []
    assert share_out(torch.zeros(2, 0)).tolist() == [-1, -1]


def test_the_loss_is_the_cross_entropy_in_both_directions() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    target = torch.tensor([1, -1, 0])
    total = 0.0
    for track, box in enumerate(target.tolist()):
        every = [0.0, *logits[track].tolist()]
        chosen = 0.0 if box < 0 else float(logits[track, box])
        total += float(torch.tensor(every).exp().sum().log()) - chosen
    for box, track in ((0, 2), (1, 0)):
        every = [0.0, *logits[:, box].tolist()]
        total += float(torch.tensor(every).exp().sum().log()) - float(logits[track, box])
    torch.testing.assert_close(float(likeness_loss(logits, target)), total, rtol=1e-5, atol=1e-5)
    nobody = likeness_loss(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    assert float(nobody) == 0.0


def test_shifts_are_in_sizes_of_the_old_box() -> None:
    found = shifts(PAIR[:1], torch.tensor([[0.4, 0.4, 0.2, 0.2]]))[0, 0]
    torch.testing.assert_close(found, torch.tensor([1.0, -0.5, math.log(2), 0.0]))
    assert shifts(PAIR[:1], PAIR[1:] + 5).abs().max() <= FARTHEST
