"""Denoising and reconstruction with a learned convex prior (CRR-NN).

The prior R(x) = sum psi_c(W x) is a sum of convex profiles of learned filter responses. It is
trained once, as a denoiser, and then used in any linear inverse problem by minimising
0.5 * ||H x - y||^2 + lambda/mu * R(mu x): a convex problem, whose minimiser is global and moves
no further than the data do.

Source: Goujon, Neumayer, Bohra, Ducotterd, Unser, "A Neural-Network-Based Convex Regularizer for
Inverse Problems", IEEE Transactions on Computational Imaging 2023, arXiv 2211.12461.
"""

from ...core.lazy import exports

_NAMES = {
    "CheckConfig": "config",
    "DenoiseConfig": "config",
    "DenoiseTraining": "config",
    "EvalConfig": "config",
    "TrainConfig": "config",
    "check": "data",
    "demo": "handover",
    "denoise": "apply",
    "evaluate": "score",
    "export": "handover",
    "load": "handover",
    "train": "fit",
    "reconstruct_ct": "reconstruction.apply",
    "reconstruct_mri": "reconstruction.apply",
    "reconstruct_image": "reconstruction.apply",
    "reconstruct_matrix": "reconstruction.apply",
    "simulate_sinogram": "reconstruction.simulate",
    "simulate_kspace": "reconstruction.simulate",
}
__all__ = list(_NAMES)
__getattr__ = exports(__name__, _NAMES)
