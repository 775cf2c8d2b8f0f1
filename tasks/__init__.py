"""The methods: one package each, all of the same shape."""

from __future__ import annotations

from typing import NamedTuple


class Method(NamedTuple):
    """A row of the method table. `package` is its place in `tasks`."""

    name: str
    package: str
    summary: str
    reads: str
    writes: str


METHODS = (
    Method(
        "prune",
        "prune",
        "Remove channels from a trained vision model and repair it without any training data.",
        "a torchvision model or your own, with weights",
        "a smaller model (.safetensors)",
    ),
    Method(
        "labelnoise",
        "labelnoise",
        "Find wrong labels among long-tailed images, and train a classifier in spite of them.",
        "images in class folders or a table; or probabilities, features and labels (NPY)",
        "a ranked report (.csv, .html); a classifier (.safetensors)",
    ),
    Method(
        "denoise",
        "denoise",
        "Remove noise from pictures with a learned convex prior, and prove how exactly.",
        "images (PNG, TIFF, JPEG, ...; 8 or 16 bit, grey or colour)",
        "images",
    ),
    Method(
        "reconstruct",
        "denoise.reconstruction",
        "Turn CT, MRI or other linear measurements into images with the prior of denoise.",
        "sinograms, k-space, blurred or holey pictures (NPY, HDF5, TIFF, MAT, CFL, PNG)",
        "images (NPY, TIFF, PNG)",
    ),
    Method(
        "forecast",
        "forecast",
        "Forecast a network of sensors whose series stay where they were recorded.",
        "series of sensors and their graph (CSV, HDF5, NPZ, parquet, DCRNN's pickles)",
        "forecasts with intervals (.csv, .jsonl), pictures",
    ),
    Method(
        "pretrain",
        "pretrain",
        "Learn a video encoder from videos without labels: clips of one video agree.",
        "videos (any container, picture folders, NPY), with or without labels",
        "an encoder or a classifier (.safetensors), features (.npz)",
    ),
    Method(
        "recommend",
        "recommend",
        "Recommend items from several interests per user, with a dial for diversity.",
        "a log of users and items (CSV, TSV, JSON lines, parquet)",
        "ranked lists (.csv, .jsonl), vectors (.npy)",
    ),
    Method(
        "track",
        "track",
        "Follow objects through a video, also at a few frames per second (ColTrack).",
        "video, folders of frames, MOTChallenge, KITTI and Scalabel boxes",
        "tracks (MOTChallenge .txt), annotated video, JSON",
    ),
    Method(
        "segment",
        "segment",
        "Find what a sentence refers to in a photograph (CMSA), and train on such sentences.",
        "photographs and sentences; references (JSON lines, REFER), COCO and YOLO labels",
        "masks (.png), overlays, probabilities",
    ),
    Method(
        "transcribe",
        "transcribe",
        "Turn speech into text; train on few transcripts and much other audio (APL).",
        "audio (wav, flac, ogg, mp3); LibriSpeech, Kaldi, manifests, Common Voice",
        "text, JSON, SRT, VTT, CTM",
    ),
    Method(
        "upscale",
        "upscale",
        "Enlarge pictures with a network that is fitted to each of them in a few steps (MZSR).",
        "images (PNG, TIFF, JPEG, ...; 8 or 16 bit, grey or colour)",
        "images",
    ),
    Method(
        "zeroshot",
        "zeroshot",
        "Recognise classes never seen in training, through a graph of classes (ADGPM).",
        "photos and a list of classes; a classifier, a taxonomy, word vectors to train",
        "ranked classes (.csv, .jsonl), classifier rows (.pred, .safetensors)",
    ),
)
