"""Exporting a subnet of a bundle, without a server."""

import hashlib
from pathlib import Path
from typing import Any

from evolution.predictors.accuracy import AccuracyPredictor
from supernet.bundle import Bundle
from supernet.data import Images
from supernet.evaluation.evaluate import BatchNorm
from supernet.export.parity import export_metadata, export_subnet
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
    evaluator = bundle.evaluator(calibration)
    network = evaluator.subnet(arch, batch_norm)
    scored = evaluator.evaluate(network, arch.resolution)
    predicted = None
    if bundle.predictor_path is not None:
        predictor = AccuracyPredictor.load(bundle.predictor_path, bundle.space)
        predicted = float(predictor.predict(bundle.space.encode(arch)[None])[0])
    metadata = export_metadata(
        bundle,
        arch,
        batch_norm=batch_norm,
        predicted_accuracy=predicted,
        verified_accuracy=scored.accuracy if scored else None,
    )
    file = export_subnet(network, evaluator.sample(arch.resolution), metadata)
    write_atomically(output, file.data)
    return {
        "bytes": len(file.data),
        "sha256": hashlib.sha256(file.data).hexdigest(),
        "difference": file.difference,
        "verified_accuracy": scored.accuracy if scored else None,
    }
