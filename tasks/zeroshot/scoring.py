"""Scores of photos against candidate classes, by every part and by their mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .baselines import ancestor_rows, conse_scores, ridge_rows
from .checkpoint import Mixture, Trained, rows_for
from .closure import Array
from .config import ScoringOptions
from .ensemble import PARTS, mix, standardise
from .graph import Graph

BASELINES = ("ancestor", "conse", "ridge")


@dataclass(frozen=True)
class Scorer:
    """Candidates (R,) of a graph, ready to be scored.

    `classifier` (S, P) are the seen classes' own rows as they are, `targets` (S, P) the same with
    norm 1, `predicted` (R, P) the candidates' rows. With `true_seen` the targets take the place
    of predicted rows of seen candidates.
    """

    graph: Graph
    classifier: Tensor
    targets: Tensor
    nodes: Array
    predicted: Tensor
    true_seen: bool = False
    _made: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def _places(self) -> Tensor:
        """The place of each candidate among the seen classes; -1 for unseen ones."""
        place = np.full(len(self.graph.taxonomy), -1)
        place[self.graph.seen] = np.arange(len(self.graph.seen))
        return torch.from_numpy(place[self.nodes])

    @property
    def seen(self) -> Tensor:
        """Which candidates (R,) are seen classes."""
        return self._places >= 0

    def _rows(self, part: str) -> Tensor:
        """Return the candidates' rows (R, P) by a part that has rows, made once."""
        if part not in self._made:
            vectors = self.graph.vectors
            if part == "graph":
                made = self.predicted
            elif part == "ancestor":
                made = ancestor_rows(self.graph.pairs, self.graph.seen, self.targets, self.nodes)
            else:
                seen = torch.from_numpy(self.graph.seen)
                made = ridge_rows(
                    vectors[seen], self.targets, vectors[torch.from_numpy(self.nodes)]
                )
            if self.true_seen:
                own = self.targets[self._places.clamp_min(0)]
                made = torch.where(self.seen[:, None], own, made)
            self._made[part] = made
        return self._made[part]

    def part(self, name: str, features: Tensor) -> Tensor:
        """Return the scores (n, R) of features with a 1 behind (n, P) by one part."""
        if name == "conse":
            vectors = self.graph.vectors
            seen, asked = torch.from_numpy(self.graph.seen), torch.from_numpy(self.nodes)
            logits = features @ self.classifier.T
            return conse_scores(logits, vectors[seen], vectors[asked])
        return features @ self._rows(name).T

    def parts(self, features: Tensor) -> dict[str, Tensor]:
        """Return the scores (n, R) by all parts of the mixture."""
        return {name: self.part(name, features) for name in PARTS}

    def scores(self, features: Tensor, by: str, mixture: Mixture, penalty: float) -> Tensor:
        """Return standardised scores (n, R); seen candidates lose `penalty` if others compete."""
        if by == "ensemble":
            used = {name: self.part(name, features) for name, w in mixture.weights.items() if w}
            found = standardise(mix(used, {name: mixture.weights[name] for name in used}))
        else:
            found = standardise(self.part(by, features))
        return found if bool(self.seen.all()) else found - penalty * self.seen


def make_scorer(trained: Trained, options: ScoringOptions, nodes: Sequence[int] | Array) -> Scorer:
    """Return the scorer of a model for candidate nodes, with rows from --rows where given."""
    chosen = np.asarray(nodes, dtype=np.int64)
    if options.rows is not None:
        width = trained.targets.shape[1]
        predicted = rows_for(options.rows, trained.graph.taxonomy, chosen.tolist(), width)
    else:
        predicted = trained.predict(chosen)
    return Scorer(
        trained.graph,
        trained.backbone.rows,
        trained.targets,
        chosen,
        predicted,
        options.seen_rows == "true",
    )


def with_seen(nodes: Sequence[int], graph: Graph) -> list[int]:
    """Return candidates and behind them the seen classes that are not among them."""
    return list(dict.fromkeys([*nodes, *graph.seen.tolist()]))


def final_scores(
    scorer: Scorer, trained: Trained, options: ScoringOptions, by: str, features: Tensor
) -> Tensor:
    """Return scores (n, R) with the mixture of the model and the penalty of the options.

    Without --seen-penalty the ensemble has the one that it was tuned with, single parts none.
    """
    penalty = options.seen_penalty
    if penalty is None:
        penalty = trained.mixture.penalty if by == "ensemble" else 0.0
    return scorer.scores(features, by, trained.mixture, penalty)
