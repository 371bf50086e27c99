"""Writes a subnet's ONNX file and compares onnxruntime with torch before anybody gets the file."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from supernet.export.writer import ExportError, to_onnx

if TYPE_CHECKING:
    from supernet.bundle import Bundle
    from supernet.evaluation.evaluate import BatchNorm
    from supernet.space import Architecture


TOLERANCE = 1e-4  # times max(1, largest |logit|)
ROUNDING = 8.0  # times torch's own error; torch and onnxruntime round differently, and only a few images are compared


class ParityError(ExportError):
    """The file in onnxruntime and the network in torch give different outputs."""


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that passed the comparison. difference: largest |onnxruntime - torch| over the compared logits."""

    data: bytes
    difference: float


def export_subnet(network: nn.Module, images: Tensor, metadata: Mapping[str, str] | None = None) -> OnnxFile:
    """Write a static network as an ONNX file and compare the file with the network.

    network: in evaluation mode, on the CPU. images: (N, C, R, R), normalised; the file takes images of this size.

    Raises:
        ExportError: a layer cannot be written. ParityError: the outputs differ; no file is returned.
    """
    data = to_onnx(network, tuple(images.shape[1:]), metadata)
    return OnnxFile(data, check_parity(data, network, images))


def export_metadata(
    bundle: "Bundle",
    arch: "Architecture",
    *,
    batch_norm: "BatchNorm | Literal['trained']" = "recalibrated",
    predicted_accuracy: float | None = None,
    verified_accuracy: float | None = None,
) -> dict[str, str]:
    """The metadata of an ONNX file: what its input is and where the subnet comes from. Lists and objects are JSON.

    batch_norm: which statistics the file holds; `trained` are those of a network that was trained alone.
    predicted_accuracy: from the predictor. verified_accuracy: on held-out images. Both are fractions; None is left out.
    """
    normalization = bundle.normalization
    metadata = {
        "architecture": json.dumps(arch.to_json()),
        "architecture_id": bundle.space.id(arch),
        "space": bundle.space.name,
        "space_sha256": bundle.space.hash,
        "bundle_sha256": bundle.hash,
        "classes": json.dumps(list(bundle.classes)),
        "resolution": str(arch.resolution),
        "batch_norm": batch_norm,
        "normalization": json.dumps({"mean": list(normalization.mean), "std": list(normalization.std)}),
        "input": "float32 pixels in [0, 1], minus the mean, divided by the standard deviation of their channel",
    }
    for name, accuracy in (("predicted_accuracy", predicted_accuracy), ("verified_accuracy", verified_accuracy)):
        if accuracy is not None:
            metadata[name] = json.dumps(float(accuracy))
    return metadata


def check_parity(data: bytes, network: nn.Module, images: Tensor) -> float:
    """The largest |onnxruntime - torch| over the logits of (N, C, R, R) images.

    Some networks amplify rounding errors so much that torch in single precision misses the exact logits by more than
    the tolerance. The file of such a network need only be about as exact as torch. Logits in double precision count as
    exact.

    Raises:
        ParityError: the difference exceeds 1e-4 * max(1, largest |logit|), and the file's error exceeds 8 times torch's
            own error. Or the logits are not finite or have another shape.
    """
    with torch.inference_mode():
        expected = network(images).numpy()
    actual = run_onnx(data, images.numpy())
    if actual.shape != expected.shape:
        raise ParityError(f"onnxruntime gives logits of shape {actual.shape}, torch {expected.shape}")
    difference = float(np.abs(actual - expected).max())
    limit = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not difference <= limit:  # so that a NaN fails
        with torch.inference_mode():
            exact = copy.deepcopy(network).double()(images.double()).numpy()
        torch_error, file_error = (float(np.abs(logits - exact).max()) for logits in (expected, actual))
        if file_error <= ROUNDING * torch_error:
            return difference
        raise ParityError(
            f"logits in onnxruntime differ from torch by {difference:.3g}; the limit is {limit:.3g}. "
            "The file was discarded"
        )
    return difference


def run_onnx(data: bytes, images: NDArray[np.float32], threads: int = 1) -> NDArray[np.float32]:
    """(N, classes) logits of a file from `to_onnx`, by onnxruntime on the CPU. images: (N, C, R, R), normalised."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(None, {"images": images})[0]
    return logits
