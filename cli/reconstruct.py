"""`mlkit reconstruct ct|mri|image|matrix`, and the scans that `mlkit data` simulates."""

from __future__ import annotations

from ..core.options import RunOptions
from ..tasks import denoise as method
from ..tasks.denoise.reconstruction.config import (
    CtConfig,
    MatrixConfig,
    MriConfig,
    PictureConfig,
)
from ..tasks.denoise.reconstruction.simulation import KspaceConfig, SinogramConfig
from .output import Session


def reconstruct_ct(session: Session, config: CtConfig, run: RunOptions) -> None:
    """Reconstruct a slice or a volume from X-ray projections, parallel or fan beam.

    You get the image in physical units (attenuation per unit of length), and how far the run
    came. The learned prior is convex: the result is the global optimum, whatever the start.

    Examples:

    `mlkit reconstruct ct sinogram.npy --angles angles.txt -o image.npy --plot image.png`

    `mlkit reconstruct ct scan.h5 --slice 40 --certify` (Data Exchange, with its flat fields)

    Next: `mlkit data sinogram phantom` makes a scan to try.
    """
    session.finish(method.reconstruct_ct(config, run, session))


def reconstruct_mri(session: Session, config: MriConfig, run: RunOptions) -> None:
    """Reconstruct an image from undersampled k-space, of one coil or several.

    You get the image in the units of the samples. Sensitivities are read or estimated; phase
    belongs into them, the image itself is real.

    Examples:

    `mlkit reconstruct mri kspace.npy --mask mask.npy --coils maps.npy -o image.png`

    `mlkit reconstruct mri knee.h5 --slice 15 --method tv`

    Next: `mlkit data kspace phantom --coils 8` makes a scan to try.
    """
    session.finish(method.reconstruct_mri(config, run, session))


def reconstruct_image(session: Session, config: PictureConfig, run: RunOptions) -> None:
    """Undo a known blur, fill in missing pixels, or enlarge a picture.

    You get the picture that explains the measured one; blur, mask and scale may be combined.

    Examples:

    `mlkit reconstruct image blurred.png --kernel kernel.npy -o sharp.png`

    `mlkit reconstruct image scratched.png --mask mask.png -o whole.png`

    `mlkit reconstruct image small.png --scale 2 -o large.png`
    """
    session.finish(method.reconstruct_image(config, run, session))


def reconstruct_matrix(session: Session, config: MatrixConfig, run: RunOptions) -> None:
    """Reconstruct an image from any linear measurement, given as a sparse matrix.

    Examples:

    `mlkit reconstruct matrix y.npy --operator A.npz --shape 256x256 -o image.npy`

    `mlkit reconstruct matrix y.npy -A A.npz --shape 64x64 --noise 0.1 --lambda discrepancy`
    """
    session.finish(method.reconstruct_matrix(config, run, session))


def data_sinogram(session: Session, config: SinogramConfig, run: RunOptions) -> None:
    """Simulate a CT scan of an image: sinogram, angles, and the true image.

    Examples:

    `mlkit data sinogram phantom --views 60 -o scan`

    `mlkit data sinogram slice.png --geometry fan --source-distance 500 --detector-distance 1000`

    Next: `mlkit reconstruct ct`; the exact command is printed.
    """
    session.finish(method.simulate_sinogram(config, run))


def data_kspace(session: Session, config: KspaceConfig, run: RunOptions) -> None:
    """Simulate an undersampled MRI scan of an image: k-space, mask, coils, and the true image.

    Examples:

    `mlkit data kspace phantom --acceleration 4 -o scan`

    `mlkit data kspace slice.png --coils 8 --noise 0.0001`

    Next: `mlkit reconstruct mri`; the exact command is printed.
    """
    session.finish(method.simulate_kspace(config, run))
