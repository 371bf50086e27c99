"""Exporting a subnet of a bundle, without a server."""

import hashlib
from pathlib import Path
from typing import Any

from evolution.predictors.accuracy import AccuracyPredictor
from service.exports.subnet import extract_subnet
from supernet.bundle import Bundle
from supernet.data import Images
from supernet.evaluation.evaluate import BatchNorm
from supernet.files import write_atomically
from supernet.space import Architecture


def export_subnet_of(
    bundle: Bundle,
    arch: Architecture,
    output: Path,
    *,
    batch_norm: BatchNorm = "recalibrated",
    calibration: Images | None = None,
) -> dict[str, Any]:
    """Extract, recalibrate and verify a subnet; write it as ONNX once onnxruntime agrees with torch.

    batch_norm: `stored` keeps the supernet's own statistics. calibration: images to use instead of the bundle's own.

    Raises:
        ParityError (a ValueError): onnxruntime and torch differ; nothing is written. BundleError: the bundle was made
            without weights. ValueError: there are no images to recalibrate with.
    """
    subnet = extract_subnet(bundle, bundle.evaluator(calibration), arch, batch_norm)
    evaluation = subnet.evaluate()
    verified_accuracy = evaluation.accuracy if evaluation else None
    predicted_accuracy = None
    if bundle.predictor_path is not None:
        predictor = AccuracyPredictor.load(bundle.predictor_path, bundle.space)
        predicted_accuracy = float(predictor.predict(bundle.space.encode(arch)[None])[0])
    file = subnet.to_onnx(predicted_accuracy=predicted_accuracy, verified_accuracy=verified_accuracy)
    write_atomically(output, file.data)
    return {
        "bytes": len(file.data),
        "sha256": hashlib.sha256(file.data).hexdigest(),
        "difference": file.difference,
        "verified_accuracy": verified_accuracy,
    }
