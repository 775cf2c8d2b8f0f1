from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mlkit.tasks.recommend.synth import generate


@pytest.mark.parametrize("seed", [0, 1])
def test_users_have_two_to_four_categories_and_stay_a_while(seed: int) -> None:
    made = generate(300, 120, 30, seed)
    assert made.items["item_id"].n_unique() == 120
    joined = made.log.join(made.items, on="item_id", how="left")
    assert joined["category"].null_count() == 0
    kinds = joined.group_by("user_id").agg(pl.col("category").n_unique())["category"]
    assert 1 <= int(kinds.min()) <= int(kinds.max()) <= 4  # type: ignore[call-overload]
    same_user = (joined["user_id"] == joined["user_id"].shift(1)).to_numpy()[1:].astype(bool)
    same_kind = (joined["category"] == joined["category"].shift(1)).to_numpy()[1:].astype(bool)
    assert 0.75 < float(np.mean(same_kind[same_user])) < 0.95
    assert generate(300, 120, 30, seed).log.equals(made.log)
    assert bool((joined.group_by("user_id").len()["len"] >= 5).all())
