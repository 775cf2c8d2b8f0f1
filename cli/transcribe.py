"""`mlkit transcribe`, its workflow verbs, `mlkit data pseudo-labels` and `spoken-strings`."""

from __future__ import annotations

from ..core.options import BatchOptions, RunOptions
from ..tasks import transcribe as method
from ..tasks.transcribe.config import (
    CheckConfig,
    EvalConfig,
    JoinConfig,
    PseudoConfig,
    TrainConfig,
    TranscribeConfig,
    TranscribeTrainOptions,
)
from .output import Session


def transcribe(
    session: Session, config: TranscribeConfig, batch: BatchOptions, run: RunOptions
) -> None:
    """Turn speech into text, subtitles, or words with times and confidences.

    Without --weights a small embedded model listens, which knows the English digits and nothing
    else: train your own for your own words.

    Examples:

    `mlkit transcribe call.wav`

    `mlkit transcribe talks/ --weights runs/asr/best.safetensors -f srt -o subtitles/`

    Next: `mlkit train transcribe`, `mlkit eval transcribe`.
    """
    session.finish(method.transcribe(config, batch, run, session, session.command_line))


def train_transcribe(
    session: Session, config: TrainConfig, training: TranscribeTrainOptions, run: RunOptions
) -> None:
    """Train a speech recogniser on a little transcribed and much other audio.

    First on transcripts alone, then on what the model itself writes for the other audio: tokens
    that it doubts may be anything (--method apl). You get a run folder: best.safetensors, the
    state to resume from, metrics.jsonl, report.html.

    Examples:

    `mlkit train transcribe LibriSpeech/train-clean-100 --unlabelled raw/ -o runs/asr`

    `mlkit train transcribe digits/manifest.jsonl --method supervised --units word --rate 8000`

    Next: `mlkit eval transcribe DATA --weights runs/asr/best.safetensors`.
    """
    session.finish(method.train(config, training, run, session, session.command_line))


def eval_transcribe(session: Session, config: EvalConfig, run: RunOptions) -> None:
    """Score a recogniser: word and character error rates, over all and per speaker.

    Examples:

    `mlkit eval transcribe LibriSpeech/test-clean --weights runs/asr/best.safetensors`

    `mlkit eval transcribe test.jsonl --weights best.safetensors --decode beam --words words.txt`
    """
    session.finish(method.evaluate(config, run, session))


def check_transcribe(session: Session, config: CheckConfig) -> None:
    """Look through speech data before a long run: minutes, rates, transcripts, broken files.

    Examples:

    `mlkit check transcribe LibriSpeech/train-clean-100`

    `mlkit check transcribe train.jsonl --against test.jsonl`
    """
    session.finish(method.check_speech(config, session))


def data_pseudo_labels(session: Session, config: PseudoConfig, run: RunOptions) -> None:
    """Let a model write transcripts for audio, and mark the tokens that it doubts.

    You get a manifest with the confidence, times and doubt of every token.

    Examples:

    `mlkit data pseudo-labels raw/ --weights best.safetensors --threshold 0.8 -o pseudo.jsonl`

    `mlkit data pseudo-labels raw/ --weights best.safetensors --proxy dev.jsonl --confidence fused`
    """
    session.finish(method.pseudo_labels(config, run, session))


def data_spoken_strings(session: Session, config: JoinConfig, run: RunOptions) -> None:
    """Join recordings of single words into spoken strings: data to try recognition on.

    Examples:

    `mlkit data spoken-strings free-spoken-digit-dataset/recordings -o strings`

    `mlkit data spoken-strings recordings/ --indices 0-4 --count 150 -o test`

    Next: `mlkit train transcribe strings/manifest.jsonl --method supervised --units word`.
    """
    session.finish(method.spoken_strings(config, run, session))
