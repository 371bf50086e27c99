"""Exporting a subnet of a bundle, without a server."""

import hashlib
from pathlib import Path
from typing import Any

from evolution.predictors.accuracy import AccuracyPredictor
from service.bundles.finetune import training_metadata, verified_accuracies
from service.exports.subnet import extract_subnet
from supernet.bundle import Bundle, Training, stand_alone_name
from supernet.data import Images
from supernet.evaluation.evaluate import BatchNorm
from supernet.export.parity import OnnxFile, export_metadata, export_subnet
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
    return _written(output, file, verified_accuracy)


def export_stand_alone(bundle: Bundle, arch: Architecture, training: Training, output: Path) -> dict[str, Any]:
    """Write a network that was trained alone, and that the bundle has, as ONNX.

    Raises:
        ParityError (a ValueError): onnxruntime and torch differ; nothing is written. BundleError: the bundle has no
            such network.
    """
    network = bundle.stand_alone_network(arch, training)
    card = bundle.stand_alone[stand_alone_name(bundle.space, arch, training)]
    _, accuracy = verified_accuracies(card)
    metadata = export_metadata(bundle, arch, batch_norm="trained", verified_accuracy=accuracy)
    file = export_subnet(network, bundle.evaluator().sample(arch.resolution), metadata | training_metadata(card))
    return _written(output, file, accuracy)


def _written(output: Path, file: OnnxFile, verified_accuracy: float | None) -> dict[str, Any]:
    write_atomically(output, file.data)
    return {
        "bytes": len(file.data),
        "sha256": hashlib.sha256(file.data).hexdigest(),
        "difference": file.difference,
        "verified_accuracy": verified_accuracy,
    }
