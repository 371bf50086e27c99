"""Whether subnets can be extracted from a supernet. Its bundle needs weights and calibration images."""

from service.errors import InvalidError
from service.storage.tables import Supernet


def check_extractable(supernet: Supernet) -> None:
    """Raise InvalidError, with the reason of `why_not_extractable`, if no subnet can be extracted."""
    if reason := why_not_extractable(supernet):
        raise InvalidError(reason)


def why_not_extractable(supernet: Supernet) -> str | None:
    """Why no recalibrated subnet can be extracted, and what to do; None if subnets can be extracted."""
    files, name = supernet.manifest["files"], f"supernet {supernet.id} ({supernet.name})"
    if "weights.safetensors" not in files:
        return (
            f"{name} was made without a checkpoint, so it can be searched but neither verified nor exported; make a "
            "bundle with `supple import-ofa --checkpoint FILE.pth` and register that"
        )
    if "calibration.npz" not in files:
        return (
            f"{name} has no calibration images to recalibrate batch norm with; give its bundle images with `supple fit "
            "BUNDLE --images FOLDER` and register it again, or use `supple export --batch-norm stored`"
        )
    return None
