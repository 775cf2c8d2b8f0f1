from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit.core.checkpoint import Metadata, save
from mlkit.core.errors import CheckpointError, DataError, InterruptedRun, UsageError
from mlkit.core.options import RunOptions
from mlkit.core.progress import Silent
from mlkit.core.runtime import start
from mlkit.tasks.segment import fit, predict
from mlkit.tasks.segment.apply import look, overlay
from mlkit.tasks.segment.checkpoint import load, open_trained, save_model
from mlkit.tasks.segment.config import (
    ModelOptions,
    SegmentTraining,
    SourceOptions,
    TrainConfig,
)
from mlkit.tasks.segment.data import Samples, fits
from mlkit.tasks.segment.model import Segmenter
from mlkit.tasks.segment.references import Reference, open_references
from mlkit.tasks.segment.score import ALL, SWAPPED, by_kind, score
from mlkit.tasks.segment.text import Vocabulary

from .helpers import world

RUN = RunOptions(device="cpu", seed=3)
STEPS = SegmentTraining(steps=4, save_every=2, batch_size=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world(tmp_path_factory.mktemp("world"), 10)


def references(data: Path, split: str = "train") -> list[Reference]:
    return [r for r in open_references(data, SourceOptions()) if r.split == split]


def config(data: Path, out: Path, **options: Any) -> TrainConfig:
    return TrainConfig(data=data, out=out, **{"image_size": 32, **options})


def assert_same_file(one: Path, two: Path) -> None:
    from safetensors.torch import load_file

    a, b = load_file(one), load_file(two)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("options", [{}, {"word_order": "lstm", "fusion": "sum"}])
def test_resumed_equals_uninterrupted_bit_for_bit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    fit.train(config(data, tmp_path / "whole", **options), STEPS, RUN)
    real, calls = fit.validate, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise InterruptedRun("enough")
        return real(*arguments)

    monkeypatch.setattr(fit, "validate", interrupted)
    cut = config(data, tmp_path / "cut", **options)
    with pytest.raises(InterruptedRun):
        fit.train(cut, STEPS, RUN)
    monkeypatch.setattr(fit, "validate", real)
    fit.train(cut.model_copy(update={"resume": tmp_path / "cut"}), STEPS, RUN)
    for name in ("best.safetensors", "last.safetensors"):
        assert_same_file(tmp_path / "whole" / name, tmp_path / "cut" / name)
    with pytest.raises(UsageError, match="holds a run already"):
        fit.train(cut, STEPS, RUN)


def test_a_few_scenes_are_learnt_by_heart(data: Path) -> None:
    """No generalisation: six sentences, most of which must be met soon."""
    some = references(data)[:6]
    options = TrainConfig(data=data, image_size=32, augment=False)
    training = SegmentTraining(steps=80, save_every=40, batch_size=6, lr=5e-3)
    _, _, fitted = fit.fit_segmenter(fit.Parts(some, some), options, training, start(RUN))
    assert fitted.best > 0.5


def test_a_frozen_backbone_trains_on_features_that_are_computed_once(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = fit.Parts(references(data)[:6], references(data, "val")[:3])
    options = TrainConfig(data=data, image_size=32, backbone="efficientnet_lite0", random_init=True)
    training = SegmentTraining(steps=3, save_every=3, batch_size=4)
    calls: list[int] = []
    real = Segmenter.features

    def counted(self: Segmenter, images: torch.Tensor) -> Any:
        calls.append(len(images))
        return real(self, images)

    monkeypatch.setattr(Segmenter, "features", counted)
    model, _, fitted = fit.fit_segmenter(parts, options, training, start(RUN))
    photographs = [len({r.image for r in part}) for part in (parts.train, parts.val)]
    assert sum(calls) == 2 * photographs[0] + photographs[1]  # mirrored ones for training
    torch.manual_seed(RUN.seed)
    untouched = Segmenter(ModelOptions(image_size=32, backbone="efficientnet_lite0"), 60).backbone
    same = untouched.state_dict()
    assert all(torch.equal(t, same[k]) for k, t in model.backbone.state_dict().items())
    assert fitted.steps == 3


def test_features_are_kept_only_where_they_fit() -> None:
    model = Segmenter(ModelOptions(image_size=320, backbone="resnet50"), 10)
    assert fits(model, 100)
    assert not fits(model, 100_000)


def test_pretrained_weights_fill_the_backbone(data: Path) -> None:
    from mlkit.core.zoo import open_model

    built = fit.build(TrainConfig(data=data, backbone="efficientnet_lite0"), 9, start(RUN))
    classifier, _ = open_model("efficientnet_lite0", None, None, None, False)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        x = built.backbone.spec.normalise(images)
        for block in list(classifier.features)[:17]:  # type: ignore[arg-type]
            x = block(x)
        found = built.features(images)[0]
    assert found.shape[2:] == (8, 8)
    wanted = torch.nn.functional.interpolate(x, (8, 8), mode="bilinear")
    torch.testing.assert_close(found, wanted)
    assert built.frozen
    with pytest.raises(UsageError, match="mini has no pretrained"):
        fit.build(TrainConfig(data=data, weights=Path("w.pth")), 9, start(RUN))


def test_a_resnet_classifier_fills_the_dilated_backbone(data: Path, tmp_path: Path) -> None:
    from torchvision.models import resnet50

    torch.manual_seed(0)
    torch.save(resnet50().state_dict(), tmp_path / "r.pth")
    options = TrainConfig(
        data=data, backbone="resnet50", weights=tmp_path / "r.pth", fine_tune=True
    )
    built = fit.build(options, 9, start(RUN))
    torch.manual_seed(0)
    wanted = resnet50().state_dict()
    found = built.backbone.state_dict()
    assert torch.equal(found["stem.0.weight"], wanted["conv1.weight"])
    assert torch.equal(found["layer4.2.conv3.weight"], wanted["layer4.2.conv3.weight"])
    assert not built.frozen


def test_samples_are_mirrored_with_their_words_and_masks(data: Path) -> None:
    some = [r for r in references(data) if "left" in r.expression][:3]
    texts = [r.expression for r in some]
    words = Vocabulary.build([*texts, "right rightmost"])
    samples = Samples(some, words, 32, mirror=True)
    assert len(samples) == 2 * len(some)
    none = torch.Generator()
    plain = samples.fetch(torch.arange(len(some)), none)
    mirrored = samples.fetch(torch.arange(len(some), len(samples)), none)
    assert torch.equal(mirrored["images"], plain["images"].flip(-1))
    assert torch.equal(mirrored["masks"], plain["masks"].flip(-1))
    swapped = [t.replace("left", "RIGHT").replace("right", "left").lower() for t in texts]
    assert torch.equal(samples.tokens[len(some) :], words.encode(swapped))
    assert not torch.equal(mirrored["tokens"], plain["tokens"])


def test_jitter_moves_picture_and_mask_together(data: Path) -> None:
    some = references(data)[:6]
    words = Vocabulary.build([r.expression for r in some])
    samples = Samples(some, words, 32, jitter=True)
    places = torch.arange(6)
    one, two = (samples.fetch(places, torch.Generator().manual_seed(s)) for s in (1, 2))
    again = samples.fetch(places, torch.Generator().manual_seed(1))
    assert torch.equal(one["images"], again["images"])
    assert not torch.equal(one["masks"], two["masks"])
    assert set(one["masks"].unique().tolist()) == {0, 1}
    # A shape stands out from the grey around it, also where it was moved.
    for image, mask in zip(one["images"].float(), one["masks"] > 0, strict=True):
        inside = image[:, mask].mean(1)
        assert float((inside - image.mean((1, 2))).abs().max()) > 10


def test_splits(data: Path) -> None:
    every = open_references(data, SourceOptions())
    parts = fit.divide(every, 0)
    assert {r.split for r in parts.train} == {"train"}
    assert {r.split for r in parts.val} == {"val"}
    parts = fit.divide([r for r in every if r.split == "train"], 0)
    assert not {r.image for r in parts.train} & {r.image for r in parts.val}
    assert len({r.image for r in parts.val}) == 1
    with pytest.raises(DataError, match="too few"):
        fit.divide([r for r in every if r.split == "test"], 0)


def test_presets_fill_what_was_not_given() -> None:
    given = TrainConfig(data=Path("x"), preset="paper", image_size=160)
    options, training = fit.resolve(given, SegmentTraining(lr=1e-4))
    assert (options.backbone, options.width, options.image_size) == ("resnet101", "paper", 160)
    assert (training.steps, training.batch_size, training.lr) == (800_000, 1, 1e-4)
    _, training = fit.resolve(given, SegmentTraining(epochs=3))
    assert training.steps == 0


def trained(data: Path, folder: Path) -> Any:
    torch.manual_seed(0)
    words = Vocabulary.build([r.expression for r in references(data)])
    model = Segmenter(ModelOptions(image_size=32), len(words))
    torch.nn.init.zeros_(model.score.bias)  # type: ignore[arg-type]
    save_model(folder / "m.safetensors", model, words, {})
    return open_trained(folder / "m.safetensors")


def test_a_model_comes_back_and_foreign_files_are_refused(data: Path, tmp_path: Path) -> None:
    one = trained(data, tmp_path)
    tokens = one.vocabulary.encode(["the red circle"])
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        again = load(tmp_path / "m.safetensors")(images, tokens)
        torch.testing.assert_close(again, one.model(images, tokens))
    save(tmp_path / "p.safetensors", {"a": torch.ones(1)}, Metadata("prune", "model"))
    with pytest.raises(CheckpointError, match="'prune'"):
        open_trained(tmp_path / "p.safetensors")
    save(tmp_path / "d.safetensors", {"a": torch.ones(1)}, Metadata("segment", "model", {}))
    with pytest.raises(CheckpointError, match="lacks or distorts 'model'"):
        open_trained(tmp_path / "d.safetensors")
    content = {"model": ModelOptions(image_size=32).to_dict(), "words": ["a"]}
    save(tmp_path / "w.safetensors", {"a": torch.ones(1)}, Metadata("segment", "model", content))
    with pytest.raises(CheckpointError, match="do not begin with <pad>"):
        open_trained(tmp_path / "w.safetensors")


def test_a_photograph_is_encoded_once_for_many_sentences(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trained(data, tmp_path)
    monkeypatch.setattr(predict, "SENTENCES", 2)
    calls = []
    real = one.model.features
    monkeypatch.setattr(one.model, "features", lambda x: calls.append(1) or real(x))
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (40, 70, 3), dtype=np.uint8)
    )
    texts = ["the red circle", "the leftmost square", "the blue shape"]
    found = look(one, picture, texts, 0.5, start(RUN))
    assert len(calls) == 1
    assert [f.prob.shape for f in found] == [(40, 70)] * 3
    for text, together in zip(texts, found, strict=True):
        alone = look(one, picture, [text], 0.5, start(RUN))[0]
        np.testing.assert_allclose(alone.prob, together.prob, atol=1e-5)
        assert np.array_equal(together.mask, together.prob > 0.5)
    shown = overlay(picture, [found[0].mask])
    assert np.array_equal(shown[~found[0].mask], np.array(picture)[~found[0].mask])


def test_scores_and_their_controls(data: Path, tmp_path: Path) -> None:
    one = trained(data, tmp_path)
    tests = references(data, "test")
    found = score(one, tests, start(RUN), Silent(), controls=True)
    assert all(overlap is not None for overlap in found["model"])
    kinds = by_kind(found["model"], tests)
    assert {kind: values["count"] for kind, values in kinds.items()} == {
        "all": 12, "attr": 4, "none": 4, "ord": 4, "rel": 4,
    }  # fmt: skip
    whole = by_kind(found[ALL], tests)
    assert 0.1 < whole["all"]["overall"] < 0.8
    swapped = [o for o, r in zip(found[SWAPPED], tests, strict=True) if r.kind == "ord"]
    assert all(o is not None for o in swapped)
