"""Images from measurements: tomography, magnetic resonance, blurred or incomplete pictures."""

from ....core.lazy import exports

_NAMES = {"demo": "handover"}
__all__ = list(_NAMES)
__getattr__ = exports(__name__, _NAMES)
