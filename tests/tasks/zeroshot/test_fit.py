"""Training, its checkpoint, tuning and fine-tuning on a small world of colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mlkit.core.checkpoint import Metadata, save
from mlkit.core.errors import CheckpointError, DataError, InterruptedRun, UsageError
from mlkit.core.inputs import read_input
from mlkit.core.options import RunOptions
from mlkit.core.progress import Silent
from mlkit.core.runtime import start
from mlkit.core.training import _Trainer
from mlkit.tasks.zeroshot.backbone import append_one, open_backbone
from mlkit.tasks.zeroshot.checkpoint import (
    load,
    open_trained,
    read_rows,
    rows_for,
    save_rows,
)
from mlkit.tasks.zeroshot.config import (
    BackboneOptions,
    FinetuneConfig,
    FinetuneTraining,
    ScoringOptions,
    TrainConfig,
    ZeroshotTraining,
)
from mlkit.tasks.zeroshot.data import open_photos, read_features
from mlkit.tasks.zeroshot.finetuning import finetune
from mlkit.tasks.zeroshot.fit import resolve, train
from mlkit.tasks.zeroshot.scoring import make_scorer, with_seen
from mlkit.tasks.zeroshot.tuning import choose

from .helpers import write_workshop

RUN = RunOptions(device="cpu", seed=3)
STEPS = ZeroshotTraining(epochs=12, save_every=4)
TUNE = FinetuneTraining(epochs=4, batch_size=8, lr=0.01)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_workshop(tmp_path)
    monkeypatch.chdir(tmp_path)
    # The factory's module must be the one of this folder.
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "net", raising=False)
    return tmp_path


def config(folder: Path, out: str = "run", **more: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "graph": str(folder / "tree.tsv"),
        "seen": folder / "seen.txt",
        "classes": folder / "unseen.txt",
        "semantic": str(folder / "words.txt"),
        "factory": "net:build",
        "backbone_weights": folder / "net.pth",
        "hidden": 8,
        "out": folder / out,
        **more,
    }
    return TrainConfig(**values)


def same(one: Path, two: Path) -> None:
    a, b = load_file(one), load_file(two)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    real, calls = _Trainer._checkpoint, []

    def stop(self: _Trainer) -> None:
        real(self)
        calls.append(1)
        if len(calls) == after:
            raise InterruptedRun("enough")

    monkeypatch.setattr(_Trainer, "_checkpoint", stop)


def test_resumed_equals_uninterrupted_bit_for_bit(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(workshop, "whole"), STEPS, RUN)
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(InterruptedRun):
            train(config(workshop, "cut"), STEPS, RUN)
    train(config(workshop, "cut", resume=workshop / "cut"), STEPS, RUN)
    for name in ("best.safetensors", "last.safetensors"):
        same(workshop / "whole" / name, workshop / "cut" / name)


@pytest.mark.parametrize("variant", ["adgpm", "dgpm", "gpm", "mlp", "gcnz"])
def test_every_variant_fits_saves_and_opens_the_same(workshop: Path, variant: str) -> None:
    options = ZeroshotTraining(epochs=150, lr=0.01, save_every=50, weight_decay=0.0)
    result = train(config(workshop, variant=variant, dropout=0.0, hidden=32), options, RUN)
    history = [e for e in (workshop / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(history) == 3
    assert result.metrics["loss"] < 0.1  # four rows are learnt by heart
    path = workshop / "run" / "best.safetensors"
    with pytest.raises(CheckpointError, match="may not call by itself"):
        load(path)
    trained = open_trained(path, "net:build")
    assert trained.graph.taxonomy.ids[:4] == ("red", "green", "blue", "black")
    rows = trained.predict(np.arange(len(trained.graph.taxonomy)))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
    loss = float((1 - (rows[:4] * trained.targets).sum(1)).mean())
    assert loss == pytest.approx(result.metrics["loss"], abs=2e-3)  # vectors are kept as fp16


def test_the_targets_are_normalised_with_their_bias(workshop: Path) -> None:
    options = BackboneOptions(factory="net:build", backbone_weights=workshop / "net.pth")
    backbone = open_backbone(options, 4)
    state = torch.load(workshop / "net.pth", weights_only=True)
    joint = torch.cat((state["4.weight"], state["4.bias"][:, None]), 1)
    torch.testing.assert_close(backbone.targets, joint / joint.norm(dim=1, keepdim=True))
    assert {k: v.shape for k, v in backbone.state().items()} == {
        k: v.shape for k, v in state.items()
    }
    model = __import__("net").build()
    model.load_state_dict(state)
    spec = backbone.recipe.input
    image = spec.normalise(read_input(workshop / "photos" / "red" / "0.png", spec)[None])
    found = backbone.extend(image, start(RUN)) @ backbone.rows.T
    torch.testing.assert_close(found, model(image).detach())
    assert append_one(torch.zeros(2, 3)).tolist() == [[0, 0, 0, 1]] * 2
    with pytest.raises(CheckpointError, match="has 4 classes, the list of seen classes 5"):
        open_backbone(options, 5)


def test_scores_by_every_part_and_the_penalty(workshop: Path) -> None:
    train(config(workshop), STEPS, RUN)
    trained = open_trained(workshop / "run" / "best.safetensors", "net:build")
    photos = open_photos(workshop / "photos", trained.graph.taxonomy)
    assert len(photos) == 36
    features, kept, failures = read_features(
        photos.paths, trained.backbone, start(RUN), 10, Silent()
    )
    assert kept == list(range(36))
    assert not failures
    unseen = [trained.graph.taxonomy.index[name] for name in ("white", "yellow")]
    nodes = with_seen([*unseen, 0], trained.graph)
    assert nodes == [*unseen, 0, 1, 2, 3]
    scorer = make_scorer(trained, ScoringOptions(), nodes)
    assert scorer.seen.tolist() == [False, False, True, True, True, True]
    torch.testing.assert_close(scorer.part("graph", features), features @ trained.predict(nodes).T)
    true = make_scorer(trained, ScoringOptions(seen_rows="true"), nodes)
    torch.testing.assert_close(true.part("graph", features)[:, 2:], features @ trained.targets.T)
    plain = scorer.scores(features, "ensemble", trained.mixture, 0.0)
    lower = scorer.scores(features, "ensemble", trained.mixture, 1.5)
    torch.testing.assert_close(plain - lower, (1.5 * scorer.seen).expand(36, 6))
    alone = make_scorer(trained, ScoringOptions(), [0, 1])
    torch.testing.assert_close(
        alone.scores(features, "ridge", trained.mixture, 9.0),
        alone.scores(features, "ridge", trained.mixture, 0.0),
    )


def test_the_mixture_is_chosen_without_the_held_out_rows(workshop: Path) -> None:
    """What the second network sees, and that few photos are refused."""
    train(config(workshop), STEPS, RUN)
    trained = open_trained(workshop / "run" / "best.safetensors", "net:build")
    photos = open_photos(workshop / "photos", trained.graph.taxonomy)
    features, _, _ = read_features(photos.paths, trained.backbone, start(RUN), 10, Silent())
    known = np.isin(photos.nodes.numpy(), trained.graph.seen)
    given: list[Any] = []

    def refit(part: Any, targets: torch.Tensor) -> Any:
        given.append((part.seen.tolist(), targets))
        return trained.network

    features = features[torch.from_numpy(known)].repeat(2, 1)
    nodes = np.tile(photos.nodes.numpy()[known], 2)
    mixture, found = choose(
        trained.graph, trained.backbone.rows, trained.targets, np.array([1, 3]), features, nodes,
        trained.options, refit,
    )  # fmt: skip
    assert given[0][0] == [0, 2]
    assert torch.equal(given[0][1], trained.targets[[0, 2]])
    assert mixture.tuned
    assert sum(mixture.weights.values()) == pytest.approx(1)
    assert found["held_out_hit@5"] == 1
    with pytest.raises(DataError, match="only 6 photos show one of the 1 held-out classes"):
        choose(
            trained.graph, trained.backbone.rows, trained.targets, np.array([1]), features[:24],
            nodes[:24], trained.options, refit,
        )  # fmt: skip


def test_training_with_photos_keeps_the_tuned_mixture(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlkit.tasks.zeroshot.tuning.SHARE", 0.5)
    monkeypatch.setattr("mlkit.tasks.zeroshot.tuning.LEAST", 6)
    result = train(config(workshop, images=workshop / "photos"), STEPS, RUN)
    assert "chosen on held-out classes" in result.notes[0]
    trained = open_trained(workshop / "run" / "best.safetensors", "net:build")
    assert trained.mixture.tuned
    assert vars(trained.mixture) == result.metrics["mixture"]
    assert trained.content["metrics"]["held_out_hit@5"] == 1
    plain = train(config(workshop, "plain"), STEPS, RUN)
    assert plain.metrics["loss"] == result.metrics["loss"]  # the photos change no row


def test_fine_tuning_lowers_the_loss_and_leaves_the_rows(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(workshop), STEPS, RUN)
    for name in ("white", "yellow"):
        for file in (workshop / "photos" / name).iterdir():
            file.unlink()
    weights = workshop / "run" / "best.safetensors"

    def tuning(out: str, **more: Any) -> FinetuneConfig:
        return FinetuneConfig(
            data=workshop / "photos",
            weights=weights,
            factory="net:build",
            out=workshop / out,
            **more,
        )

    result = finetune(tuning("whole"), TUNE, RUN)
    assert result.metrics["last_loss"] < result.metrics["first_loss"]
    before, after = (
        open_trained(weights, "net:build"),
        open_trained(workshop / "whole" / "best.safetensors", "net:build"),
    )
    assert torch.equal(before.predict(before.graph.seen), after.predict(after.graph.seen))
    assert torch.equal(before.backbone.weight, after.backbone.weight)
    a, b = before.backbone.features.state_dict(), after.backbone.features.state_dict()
    assert any(not torch.equal(a[name], b[name]) for name in a)
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(InterruptedRun):
            finetune(tuning("cut"), TUNE, RUN)
    finetune(tuning("cut", resume=workshop / "cut"), TUNE, RUN)
    same(workshop / "whole" / "best.safetensors", workshop / "cut" / "best.safetensors")
    with pytest.raises(UsageError, match="--only head: no parameter begins so"):
        finetune(tuning("other", only="head"), TUNE, RUN)


def test_fine_tuning_refuses_unseen_photos(workshop: Path) -> None:
    train(config(workshop), STEPS, RUN)
    options = FinetuneConfig(
        data=workshop / "photos",
        weights=workshop / "run" / "best.safetensors",
        factory="net:build",
        out=workshop / "t",
    )
    with pytest.raises(DataError, match="shows 'white', which is not a seen class"):
        finetune(options, TUNE, RUN)


@pytest.mark.parametrize("ending", [".pred", ".safetensors"])
def test_files_of_rows(ending: str, workshop: Path) -> None:
    train(config(workshop), STEPS, RUN)
    trained = open_trained(workshop / "run" / "best.safetensors", "net:build")
    rows = trained.predict([0, 1, 5])
    path = workshop / f"rows{ending}"
    ids = [trained.graph.taxonomy.ids[i] for i in (0, 1, 5)]
    save_rows(path, ids, rows)
    assert read_rows(path)[0] == tuple(ids)
    taxonomy = trained.graph.taxonomy
    torch.testing.assert_close(rows_for(path, taxonomy, [5, 0], 7), rows[[2, 0]])
    with pytest.raises(CheckpointError, match="rows of 7 numbers, the classifier has 9"):
        rows_for(path, taxonomy, [5], 9)
    with pytest.raises(DataError, match="has no row for 1 classes: blue"):
        rows_for(path, taxonomy, [2], 7)


def test_official_files_of_rows_and_broken_ones(tmp_path: Path) -> None:
    official = {"wnids": ["n00000001", "n00000002"], "pred": torch.tensor([[3.0, 4.0], [0.0, 2.0]])}
    torch.save(official, tmp_path / "o.pred")
    ids, rows = read_rows(tmp_path / "o.pred")
    assert ids == ("n00000001", "n00000002")
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    (tmp_path / "bad.pred").write_bytes(b"no zip")
    torch.save({"wnids": ["a"], "pred": torch.zeros(2, 2)}, tmp_path / "short.pred")
    for name, said in (("bad.pred", "no file of predicted rows"), ("short.pred", "1 ids, but")):
        with pytest.raises(CheckpointError, match=said):
            read_rows(tmp_path / name)
    save(tmp_path / "m.safetensors", {"x": torch.zeros(1)}, Metadata("zeroshot", "model", {}))
    with pytest.raises(CheckpointError, match="metadata lacks or distorts"):
        open_trained(tmp_path / "m.safetensors")


def test_presets_fill_only_what_was_not_given(tmp_path: Path) -> None:
    plain = resolve(TrainConfig(preset="paper"), ZeroshotTraining())
    assert (plain[0].hidden, plain[1].epochs) == (2048, 3000)
    given = resolve(TrainConfig(preset="paper", hidden=7), ZeroshotTraining(steps=5))
    assert (given[0].hidden, given[1].steps, given[1].epochs) == (7, 5, 300)
    with pytest.raises(UsageError, match="--accumulate"):
        train(TrainConfig(out=tmp_path), ZeroshotTraining(accumulate=2), RUN)


def test_bad_lists_are_found_before_training(workshop: Path) -> None:
    cases: list[tuple[str, str, str, type[Exception]]] = [
        (
            "seen.txt",
            "red\ngreen\nblue\n",
            "has 4 classes, the list of seen classes 3",
            CheckpointError,
        ),
        ("seen.txt", "red\nred\nblue\nblack\n", "4 lines name 3 different classes", DataError),
        ("seen.txt", "red\ngreen\nblue\ngrey\n", "seen.txt line 4: 'grey' is not in", DataError),
    ]
    for name, text, said, kind in cases:
        (workshop / name).write_text(text)
        with pytest.raises(kind, match=said):
            train(config(workshop), STEPS, RUN)
    with pytest.raises(UsageError, match="needs --seen FILE"):
        train(config(workshop, seen=None), STEPS, RUN)
    (workshop / "seen.txt").write_text("red\ngreen\nblue\nblack\n")
    with pytest.raises(UsageError, match="those of WordNet's classes alone"):
        train(config(workshop, semantic="embedded"), STEPS, RUN)


def test_gaps_are_told(workshop: Path) -> None:
    with (workshop / "tree.tsv").open("a") as tree:
        tree.write("stone\tthing\nwood\t\nnameless\tbright\n")
    with (workshop / "words.txt").open("a") as words:
        words.write("stone 1 2 3 4 5 6\n")
    (workshop / "unseen.txt").write_text("white\nred\nstone\nnameless\n")
    progress = Silent()
    train(config(workshop), STEPS, RUN, progress)
    said = "\n".join(progress.warnings)
    assert "1 of the classes are seen classes already: red" in said
    assert "1 of the classes have no vector: their rows rest on their relatives: nameless" in said
    assert "1 of the classes share no ancestor with a seen class" in said
    (workshop / "unseen.txt").write_text("wood\n")
    with pytest.raises(DataError, match=r"'wood' \(wood\) has neither a vector nor relatives"):
        train(config(workshop, "other"), STEPS, RUN)
