"""Clips, augmentation, training in stages, and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlkit.core.errors import CheckpointError, DataError, InterruptedRun, UsageError
from mlkit.core.options import RunOptions
from mlkit.core.runtime import start
from mlkit.tasks.track import fit
from mlkit.tasks.track.augment import GREY, Transformed, augment, mixup, mosaic, recolour, warp
from mlkit.tasks.track.checkpoint import load, open_trained, rename, save_model
from mlkit.tasks.track.config import ClipOptions, TrackTrainOptions, TrainConfig
from mlkit.tasks.track.data import Clips, FrozenCache, make_footage
from mlkit.tasks.track.decoder import Memory
from mlkit.tasks.track.losses import Truth
from mlkit.tasks.track.sequence import open_sequence

from .helpers import TINY, some_truth, straight_tracks, tiny_model, write_mot

RUN = RunOptions(device="cpu", seed=3)
STEPS = TrackTrainOptions(steps=6, save_every=2)
SMALL: dict[str, Any] = {
    "width": 8, "dim": 32, "heads": 4, "encoder_layers": 1, "decoder_layers": 2, "ffn": 32,
    "queries": 6, "size": 64, "clip_length": 3, "max_interval": 2, "noise_pairs": 4,
}  # fmt: skip


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    return write_mot(tmp_path / "seq", straight_tracks(10))


def config(sequence: Path, out: str, **options: Any) -> TrainConfig:
    return TrainConfig(data=(sequence,), out=sequence.parent / out, **{**SMALL, **options})


def clips(sequence: Path, **options: Any) -> Clips:
    info = open_sequence(sequence)
    footage = make_footage([(info, info.truth())], 1)
    return Clips(footage, TINY, ClipOptions(**{"clip_length": 3, "augment": "none", **options}))


def test_clips_keep_to_one_interval_and_their_sequence(sequence: Path) -> None:
    source, generator = clips(sequence, max_interval=9), torch.Generator().manual_seed(0)
    assert len(source) == 8
    intervals = set()
    for index in range(8):
        for _ in range(6):
            _, places = source._places(index, generator)
            steps = np.diff(places)
            assert places[0] == index
            assert places[-1] < 10
            assert len(set(steps)) == 1
            intervals.add(int(steps[0]))
    assert intervals == {1, 2, 3, 4}
    with pytest.raises(DataError, match="no sequence has 11 frames"):
        clips(sequence, clip_length=11)


def test_clips_hold_images_and_boxes_of_their_frames(sequence: Path) -> None:
    source = clips(sequence, max_interval=1)
    [clip] = source.fetch(torch.tensor([2]), torch.Generator())
    assert isinstance(clip.frames, torch.Tensor)
    assert clip.frames.shape == (3, 3, 43, 64)
    assert clip.truths[0].boxes[0].tolist() == pytest.approx(
        [(22 + 7) / 96, 15 / 64, 14 / 96, 20 / 64]
    )
    x, y = (clip.truths[0].boxes[0, :2] * torch.tensor((64, 43))).long().tolist()
    assert clip.frames[0, :, y, x].tolist() == pytest.approx(
        [40 / 255, 60 / 255, 200 / 255], abs=0.05
    )


def test_mirrors_and_maps_move_pixels_and_boxes_together() -> None:
    images = torch.full((2, 3, 40, 60), GREY)
    images[:, 0, 10:20, 12:24] = 1.0
    box = torch.tensor([[18 / 60, 15 / 40, 12 / 60, 10 / 40]])
    truth = Truth(box, torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64))
    clip = Transformed(images, [truth, truth])
    matrix = torch.tensor(((0.8, 0.0, 0.2), (0.0, 1.2, -0.1)))
    for moved in (clip.mirrored(), warp(clip, matrix)):
        lit = (moved.images[0, 0] > 0.7).nonzero().float() + 0.5
        low, high = lit.amin(0) - 0.5, lit.amax(0) + 0.5
        cx, cy, w, h = (moved.truths[1].boxes[0] * torch.tensor((60, 40, 60, 40))).tolist()
        assert [cx - w / 2, cy - h / 2] == pytest.approx(low.flip(0).tolist(), abs=1)
        assert [cx + w / 2, cy + h / 2] == pytest.approx(high.flip(0).tolist(), abs=1)
    gone = warp(clip, torch.tensor(((1.0, 0.0, 2.0), (0.0, 1.0, 0.0))))
    assert [len(t.boxes) for t in gone.truths] == [0, 0]


def test_colours_change_per_frame_and_mosaics_join_clips() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, 24, 32)
    clip = Transformed(image.repeat(2, 1, 1, 1), [some_truth(2), some_truth(3)])
    changed = recolour(clip, generator)
    assert not torch.allclose(changed.images[0], changed.images[1])
    assert changed.truths is clip.truths
    joined = mosaic([clip] * 4, generator)
    assert joined.images.shape == clip.images.shape
    assert [len(t.boxes) for t in joined.truths] == [8, 12]
    assert len(set(joined.truths[0].identity.tolist())) == 8
    both = mixup(clip, clip)
    assert torch.allclose(both.images, clip.images, atol=1e-6)
    assert len(set(both.truths[1].identity.tolist())) == 6
    full = augment(clip, generator, full=True)
    assert 0 <= float(full.images.min()) <= float(full.images.max()) <= 1


def test_full_augmentation_keeps_identities_over_a_clip(sequence: Path) -> None:
    source = clips(sequence, augment="full", mosaic=1.0, mixup=1.0, max_interval=1)
    [clip] = source.fetch(torch.tensor([1]), torch.Generator().manual_seed(2))
    assert set(clip.truths[0].identity.tolist()) & set(clip.truths[2].identity.tolist())


def test_cached_memory_is_what_the_encoder_gives(sequence: Path) -> None:
    model = tiny_model()
    cache = FrozenCache(model, True, 1e9)
    info = open_sequence(sequence)
    options = ClipOptions(stage="track", clip_length=3, augment="flip", max_interval=1)
    source = Clips(make_footage([(info, info.truth())], 1), TINY, options, cache)
    for seed in range(4):
        [clip] = source.fetch(torch.tensor([0]), torch.Generator().manual_seed(seed))
        assert isinstance(clip.frames, Memory)
        assert len(clip.frames.tokens) == 3
    assert len(cache.kept) == 6  # three frames and their mirror images
    plain = clips(sequence, max_interval=1).fetch(torch.tensor([0]), torch.Generator())[0].frames
    assert isinstance(plain, torch.Tensor)
    with torch.no_grad():
        wanted = model.encode(plain).tokens
    kept = [cache.kept[0, place, False] for place in range(3)]
    found = torch.cat([memory.tokens for memory in kept if isinstance(memory, Memory)])
    assert torch.allclose(found.float(), wanted, atol=1e-2)
    full = FrozenCache(model, True, 0)
    full.get((0, 0, False), plain[0])
    assert not full.kept


def test_a_frozen_backbone_is_kept_as_maps_and_stays_as_it_was(sequence: Path) -> None:
    torch.manual_seed(4)
    model = tiny_model(backbone="efficientnet_lite0")
    model.pyramid.backbone.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cache = FrozenCache(model, False, 1e9)
    info = open_sequence(sequence)
    footage = make_footage([(info, info.truth())], 1)
    options = ClipOptions(stage="joint", clip_length=3, augment="none", max_interval=1)
    [clip] = Clips(footage, model.options, options, cache).fetch(
        torch.tensor([0]), torch.Generator()
    )
    assert [tuple(level.shape) for level in clip.frames] == [(3, 40, 6, 8), (3, 112, 3, 4)]
    plain = clips(sequence, max_interval=1).fetch(torch.tensor([0]), torch.Generator())[0].frames
    assert isinstance(plain, torch.Tensor)
    with torch.no_grad():
        wanted, found = model.remember(plain).tokens, model.remember(clip.frames).tokens
    assert torch.allclose(found, wanted, atol=2e-2)
    fit.fit_clips(model, footage, options, STEPS, start(RUN))
    after = model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert not any(name.startswith("pyramid.backbone") for name in changed)


def test_a_backbone_starts_at_imagenet_and_stays_there_or_learns(sequence: Path) -> None:
    from mlkit.core.zoo import open_model

    classifier, _ = open_model("efficientnet_lite0", None, None, None, False)
    wanted = classifier.state_dict()["features.3.expand.0.weight"]
    name = "pyramid.backbone.features.3.expand.0.weight"
    for options in ({}, {"fine_tune": True}, {"random_init": True}):
        given = config(sequence, "x", backbone="efficientnet_lite0", **options)
        model = fit._start_model(given, start(RUN))
        assert torch.equal(model.state_dict()[name], wanted) == ("random_init" not in options)
        assert model.get_parameter(name).requires_grad == bool(options)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.parametrize("stage", ["joint", "detect", "track"])
def test_resumed_equals_uninterrupted_bit_for_bit(
    sequence: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    start: dict[str, Any] = {"stage": stage}
    if stage == "track":
        start["init"] = sequence.parent / "init.safetensors"
        save_model(
            start["init"], tiny_model(decoder_layers=2, decoder_points=8, encoder_points=4), {}
        )
    whole, cut = (config(sequence, name, val=0.3, **start) for name in ("whole", "cut"))
    fit.train(whole, STEPS, RUN)
    real, calls = fit.validate, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise InterruptedRun("enough")
        return real(*arguments)

    monkeypatch.setattr(fit, "validate", interrupted)
    with pytest.raises(InterruptedRun):
        fit.train(cut, STEPS, RUN)
    monkeypatch.setattr(fit, "validate", real)
    fit.train(cut.model_copy(update={"resume": cut.out}), STEPS, RUN)
    for name in ("best.safetensors", "last.safetensors"):
        one, two = tensors(whole.out / name), tensors(cut.out / name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert (whole.out / "metrics.jsonl").read_text() == (cut.out / "metrics.jsonl").read_text()
    assert (whole.out / "report.html").exists()


def test_stage_two_keeps_the_encoder_of_stage_one(sequence: Path) -> None:
    first = config(sequence, "one", stage="detect")
    fit.train(first, STEPS, RUN)
    init = first.out / "best.safetensors"
    second = TrainConfig(data=(sequence,), out=sequence.parent / "two", stage="track", init=init,
                         clip_length=3, noise_pairs=4)  # fmt: skip
    result = fit.train(second, STEPS, RUN)
    one, two = tensors(init), tensors(second.out / "best.safetensors")
    for name in one:
        frozen = name.startswith(("pyramid", "encoder", "proposal_head"))
        assert not frozen or torch.equal(one[name], two[name]), name
    trained = open_trained(second.out / "best.safetensors")
    assert trained.options.dim == 32  # taken from --init
    assert not trained.given
    assert result.metrics["steps"] == 6
    images = torch.rand(1, 3, 43, 64)
    with torch.no_grad():
        assert torch.equal(load(second.out / "best.safetensors")(images), trained.model(images))


def test_validation_keeps_the_threshold_that_did_best(
    sequence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = config(sequence, "run", val=0.3)
    result = fit.train(chosen, STEPS, RUN)
    trained = open_trained(chosen.out / "best.safetensors")
    assert trained.thresh in fit.THRESHOLDS
    assert 0 <= trained.content["metrics"]["score"] <= 1
    assert result.metrics["steps"] == 6
    plain = sequence.parent / "plain.safetensors"
    save_model(plain, tiny_model(), {})
    assert open_trained(plain).thresh == 0.6


def test_what_does_not_fit_is_refused(sequence: Path) -> None:
    with pytest.raises(UsageError, match="--stage track needs"):
        fit.train(config(sequence, "x", stage="track"), STEPS, RUN)
    init = sequence.parent / "init.safetensors"
    save_model(init, tiny_model(), {})
    with pytest.raises(CheckpointError, match=r"--decoder-layers 2: .* has 3"):
        fit.train(config(sequence, "x", init=init), STEPS, RUN)
    gt = sequence / "gt" / "gt.txt"
    gt.write_text(gt.read_text().replace(",1,1,1.000", ",1,5,1.000"))
    with pytest.raises(DataError, match="category 5"):
        fit.train(config(sequence, "x", classes="person,car"), STEPS, RUN)
    with pytest.raises(DataError, match="no objects that count"):
        fit.train(config(sequence, "x"), STEPS, RUN)
    other = sequence.parent / "other.safetensors"
    torch.save({"a": torch.zeros(1)}, other.with_suffix(".pth"))
    with pytest.raises(CheckpointError, match="no ColTrack checkpoint"):
        open_trained(other.with_suffix(".pth"))


def test_the_published_layout_is_read_by_names(tmp_path: Path) -> None:
    """A state dict with the published names, made by renaming ours backwards."""
    ours = tiny_model(backbone="resnet50", levels=4, dim=64, heads=8, classes=",".join("abc"))
    published: dict[str, torch.Tensor] = {}
    for name, tensor in ours.state_dict().items():
        new = name.replace("pyramid.backbone.body.", "dino.backbone.0.body.")
        new = new.replace("pyramid.input_proj.", "dino.input_proj.")
        new = new.replace("pyramid.level_embed", "dino.transformer.level_embed")
        for part in ("encoder.", "decoder.", "tgt_embed."):
            new = f"dino.transformer.{new}" if new.startswith(part) else new
        new = new.replace("proposal_head.", "dino.transformer.")
        new = f"dino.{new}" if new.startswith("label_enc") else new
        for head in ("class_embed", "bbox_embed"):
            new = new.replace(f"decoder.{head}.", f"decoder.{head}.0.")
            if f"decoder.{head}.0." in new:
                published[new.replace(f"{head}.0.", f"{head}.1.")] = tensor
                published[new.replace("transformer.decoder.", "")] = tensor
        if not name.startswith("given_"):
            published[new] = tensor
    assert (
        "dino.transformer.decoder.layers.1.history_qim.self_attn_add.self_attn_cross.in_proj_weight"
        in published
    )
    renamed = rename(published)
    own = {name for name in ours.state_dict() if name.startswith("given_")}
    assert set(renamed) | own == set(ours.state_dict())
    torch.save({"model": published}, tmp_path / "coltrack.pth")
    trained = open_trained(tmp_path / "coltrack.pth")
    for name in ("queries", "dim", "levels", "encoder_points", "decoder_points", "ffn"):
        assert getattr(trained.options, name) == getattr(ours.options, name)
    assert trained.options.class_names[1] == "person"
    for name, tensor in trained.model.state_dict().items():
        assert name in own or torch.equal(tensor, ours.state_dict()[name])
