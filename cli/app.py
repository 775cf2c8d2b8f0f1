"""The command table and the entry point."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from ..core.errors import DataError, MlkitError
from .lazy import HELP, Row, group
from .output import print_error, print_json_error

METHODS = "Methods"
WORKFLOW = "Workflow"
SHOWN = 80  # characters of a name in an error

COMMANDS = (
    Row("prune", "prune:prune", "Make a vision model smaller, without any training data.", METHODS),
    Row("labelnoise", "labelnoise:labelnoise", "Find wrong labels among images.", METHODS),
    Row("denoise", "denoise:denoise", "Remove noise from pictures, with a proof.", METHODS),
    Row("forecast", "forecast:forecast", "Forecast a network of sensors.", METHODS),
    Row("pretrain", "pretrain:pretrain", "Learn from videos without labels.", METHODS),
    Row("recommend", "recommend:recommend", "Recommend items from a log of who did what.", METHODS),
    Row("track", "track:track", "Follow objects through a video.", METHODS),
    Row("segment", "segment:segment", "Find what a sentence refers to.", METHODS),
    Row("transcribe", "transcribe:transcribe", "Turn speech into text.", METHODS),
    Row("upscale", "upscale:upscale", "Enlarge pictures, fitted to each of them.", METHODS),
    Row("zeroshot", "zeroshot:zeroshot", "Recognise classes never seen in training.", METHODS),
    Row("list", "workflow:list_", "Show the methods, or the models that prune knows.", WORKFLOW),
    Row("info", "workflow:info", "Tell what a checkpoint is.", WORKFLOW),
    Row("env", "workflow:env", "Show versions, devices and optional packages.", WORKFLOW),
    Row("demo", "workflow:demo", "Run a method on embedded data, with pictures.", WORKFLOW),
    Row("export", "workflow:export", "Write a model as ONNX or torch.export program.", WORKFLOW),
)
RECONSTRUCT = (
    Row("ct", "reconstruct:reconstruct_ct", "From X-ray projections.", METHODS),
    Row("mri", "reconstruct:reconstruct_mri", "From undersampled k-space.", METHODS),
    Row("image", "reconstruct:reconstruct_image", "Blurred, holey or small pictures.", METHODS),
    Row("matrix", "reconstruct:reconstruct_matrix", "From any linear measurement.", METHODS),
)
FEDERATE = (
    Row("serve", "federate:federate_serve", "Coordinate, knowing the graph alone.", METHODS),
    Row("join", "federate:federate_join", "Take part with this machine's sensors.", METHODS),
)
TRAIN = (
    Row("prune", "prune:train_prune", "Train a classifier to prune later.", METHODS),
    Row("labelnoise", "labelnoise:train_labelnoise", "Train in spite of wrong labels.", METHODS),
    Row("denoise", "denoise:train_denoise", "Train the prior of denoise and reconstruct.", METHODS),
    Row("forecast", "forecast:train_forecast", "Train on sensors that keep their data.", METHODS),
    Row("pretrain", "pretrain:train_pretrain", "Fine-tune a classifier of videos.", METHODS),
    Row("recommend", "recommend:train_recommend", "Train a recommender on a log.", METHODS),
    Row("track", "track:train_track", "Train a tracker on sequences.", METHODS),
    Row("segment", "segment:train_segment", "Train on sentences and masks.", METHODS),
    Row("transcribe", "transcribe:train_transcribe", "Train a speech recogniser.", METHODS),
    Row("upscale", "upscale:train_upscale", "Meta-train the start of the adaptation.", METHODS),
    Row("zeroshot", "zeroshot:train_zeroshot", "Fit rows for unseen classes.", METHODS),
    Row(
        "zeroshot-finetune",
        "zeroshot:train_zeroshot_finetune",
        "Fit features to predicted rows.",
        METHODS,
    ),
)
EVAL = (
    Row("prune", "prune:eval_prune", "Score models, side by side.", METHODS),
    Row(
        "labelnoise",
        "labelnoise:eval_labelnoise",
        "Score networks, or a report of wrong labels.",
        METHODS,
    ),
    Row("denoise", "denoise:eval_denoise", "PSNR and SSIM, beside total variation.", METHODS),
    Row("forecast", "forecast:eval_forecast", "Errors per horizon and sensor.", METHODS),
    Row("pretrain", "pretrain:eval_pretrain", "Probe, neighbours and retrieval.", METHODS),
    Row("recommend", "recommend:eval_recommend", "Score recommenders over the dial.", METHODS),
    Row("track", "track:eval_track", "HOTA, CLEAR and Identity at several rates.", METHODS),
    Row("segment", "segment:eval_segment", "IoU and precision per kind of sentence.", METHODS),
    Row("transcribe", "transcribe:eval_transcribe", "Word and character error rates.", METHODS),
    Row("upscale", "upscale:eval_upscale", "PSNR and SSIM, beside four baselines.", METHODS),
    Row("zeroshot", "zeroshot:eval_zeroshot", "hit@k on unseen classes.", METHODS),
)
CHECK = (
    Row("prune", "prune:check_prune", "Is this image folder usable?", METHODS),
    Row("labelnoise", "labelnoise:check_labelnoise", "Are these labelled images usable?", METHODS),
    Row("denoise", "denoise:check_denoise", "Are these images usable, and clean?", METHODS),
    Row("forecast", "forecast:check_forecast", "Are these series usable?", METHODS),
    Row("pretrain", "pretrain:check_pretrain", "Are these videos usable?", METHODS),
    Row("recommend", "recommend:check_recommend", "Is this log usable?", METHODS),
    Row("track", "track:check_track", "Are these sequences usable?", METHODS),
    Row("segment", "segment:check_segment", "Are these references usable?", METHODS),
    Row("transcribe", "transcribe:check_transcribe", "Is this speech data usable?", METHODS),
    Row("upscale", "upscale:check_upscale", "Are these images usable to train on?", METHODS),
    Row("zeroshot", "zeroshot:check_zeroshot", "Are these classes usable?", METHODS),
)
DATA = (
    Row(
        "synthetic-images",
        "prune:data_synthetic_images",
        "Images made from a trained model alone.",
        METHODS,
    ),
    Row("noisy-labels", "labelnoise:data_noisy_labels", "Make wrong labels on purpose.", METHODS),
    Row("sinogram", "reconstruct:data_sinogram", "Simulate a CT scan of an image.", METHODS),
    Row("kspace", "reconstruct:data_kspace", "Simulate an MRI scan of an image.", METHODS),
    Row("forecast-synth", "forecast:data_forecast_synth", "Generate a motorway.", METHODS),
    Row("video-features", "pretrain:data_video_features", "Features of videos.", METHODS),
    Row("sprite-videos", "pretrain:data_sprite_videos", "Generate videos.", METHODS),
    Row("tracklets", "pretrain:data_tracklets", "Cut people out of MOT sequences.", METHODS),
    Row("recommend-synth", "recommend:data_recommend_synth", "Generate a log of users.", METHODS),
    Row("track-synth", "track:data_track_synth", "Generate videos of objects.", METHODS),
    Row("refer-synth", "segment:data_refer_synth", "Draw shapes, with sentences.", METHODS),
    Row("refer-derive", "segment:data_refer_derive", "Sentences by rule from labels.", METHODS),
    Row("refer-convert", "segment:data_refer_convert", "RefCOCO as JSON lines.", METHODS),
    Row("pseudo-labels", "transcribe:data_pseudo_labels", "Label audio, with doubt.", METHODS),
    Row("spoken-strings", "transcribe:data_spoken_strings", "Join recorded words.", METHODS),
    Row("zeroshot-rows", "zeroshot:data_zeroshot_rows", "Predicted rows as a file.", METHODS),
)
# Commands with a second word: name, rows, what the group does, panel in the root's help.
GROUPS = (
    ("reconstruct", RECONSTRUCT, "Images from CT, MRI or other measurements.", METHODS),
    ("federate", FEDERATE, "Train forecast over machines that keep their data.", METHODS),
    ("train", TRAIN, "Fit a method's weights; leaves a run folder.", WORKFLOW),
    ("eval", EVAL, "Score with the field's own metrics.", WORKFLOW),
    ("check", CHECK, "Is this data usable? Before a long run.", WORKFLOW),
    ("data", DATA, "Make or convert data sets.", WORKFLOW),
)


def _nothing() -> None:
    """Do nothing: groups have no work of their own."""


def _group(rows: Sequence[Row], summary: str) -> typer.Typer:
    return typer.Typer(
        cls=group(*rows),
        callback=_nothing,
        no_args_is_help=True,
        help=summary,
        context_settings=HELP,
        add_completion=False,
    )


app = typer.Typer(
    cls=group(*COMMANDS),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP,
    rich_markup_mode="markdown",
    epilog="Exit codes: 0 done, 1 our bug, 2 usage, 3 bad input, 4 bad checkpoint, 5 device or "
    "memory, 6 missing extra, 130 interrupted. `mlkit METHOD --help` shows a method's options.",
)
for name, rows, text, panel in GROUPS:
    app.add_typer(_group(rows, text), name=name, rich_help_panel=panel)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("mlkit"))
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Research methods as real tools, on your own data."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; never raises for the user's errors."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(arguments, prog_name="mlkit", standalone_mode=False)
        sys.stdout.flush()
        _leave_group()
        return code if isinstance(code, int) else 0
    except MlkitError as error:
        print_error(error)
        return error.exit_code
    except BrokenPipeError:
        # The reader has gone; keep Python from complaining about it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print_error(MlkitError("interrupted"))
        return 130
    except Exception as error:
        return _other(error, arguments)


def _leave_group() -> None:
    """Leave the process group that torchrun made us join, if any."""
    if "torch" in sys.modules and os.environ.get("WORLD_SIZE", "1") != "1":
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()


def _other(error: Exception, arguments: list[str]) -> int:
    """Handle typer's own errors, and bugs of ours."""
    if type(error).__name__ == "Abort":
        return 130
    message: Any = getattr(error, "format_message", None)
    if message is not None:  # wrong usage, found by typer
        _usage_error(str(message()), error, arguments)
        return 2
    if os.environ.get("MLKIT_DEBUG") == "1":
        raise error
    told = _of_a_file(error) or MlkitError(
        f"internal error: {type(error).__name__}: {error}",
        "this is a bug; MLKIT_DEBUG=1 shows where it is",
    )
    bug = not isinstance(told, DataError)
    if "--json" in arguments:
        print_json_error(" ".join(arguments), "internal" if bug else told.kind, told.message, "")
    print_error(told)
    return 1 if bug else told.exit_code


def _of_a_file(error: Exception) -> DataError | None:
    """Return what the system says about a file: no right to read it, a name too long, ..."""
    if not isinstance(error, OSError) or error.filename is None:
        return None
    name = str(error.filename)
    shown = name if len(name) <= SHOWN else f"{name[:SHOWN]}..."
    return DataError(f"cannot use {shown!r}: {error.strerror}")


def _usage_error(message: str, error: Exception, arguments: list[str]) -> None:
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "mlkit")
    if not message:  # a group without a command: its help was printed
        return
    hint = f"see '{path} --help'"
    if "--json" in arguments:
        print_json_error(" ".join(arguments), "usage", message, hint)
    else:
        print_error(MlkitError(message, hint))
