"""The demo: a simulated CT scan of a phantom, and its image with a certificate."""

from __future__ import annotations

from pathlib import Path

from ....core.options import RunOptions
from ....core.progress import Progress
from ....core.report import write_report
from ....core.results import Result
from .apply import check_output, reconstruct_ct
from .config import CtConfig
from .simulate import simulate_sinogram
from .simulation import SinogramConfig

SIZE, VIEWS = "128", 60


def demo(out: Path, overwrite: bool, run_options: RunOptions, progress: Progress) -> Result:
    """Scan Shepp and Logan's head from few sides, reconstruct it, and leave a report in `out`."""
    scan, image, plot = out / "scan", out / "image.png", out / "strip.png"
    config = CtConfig(
        sinogram=scan / "sinogram.npy",
        angles=str(scan / "angles.txt"),
        out=image,
        size=SIZE,
        reference=scan / "image.npy",
        certify=True,
        plot=plot,
        overwrite=overwrite,
    )
    check_output(image, config)
    simulated = SinogramConfig(image="phantom", out=scan, size=SIZE, views=VIEWS, overwrite=True)
    simulate_sinogram(simulated, run_options)
    result = reconstruct_ct(config, run_options, progress)
    write_report(
        out / "report.html",
        "mlkit demo reconstruct",
        result,
        settings=config.to_dict(),
        command="mlkit demo reconstruct",
        pictures={"classical and learned image": plot},
    )
    return result
