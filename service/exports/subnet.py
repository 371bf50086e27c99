"""One subnet of a bundle: extract it, score it, write its ONNX file. Needs no database. Loads torch."""

from dataclasses import dataclass

from torch import nn

from supernet.bundle import Bundle
from supernet.evaluation.evaluate import BatchNorm, Evaluator
from supernet.evaluation.metrics import Evaluation
from supernet.export.parity import OnnxFile, export_metadata, export_subnet
from supernet.space import Architecture


@dataclass(frozen=True)
class Subnet:
    """A subnet as a network of its own, in evaluation mode."""

    bundle: Bundle
    evaluator: Evaluator
    arch: Architecture
    batch_norm: BatchNorm
    network: nn.Module

    def evaluate(self) -> Evaluation | None:
        """Its score on the bundle's held-out images; None if the bundle has none."""
        return self.evaluator.evaluate(self.network, self.arch.resolution)

    def to_onnx(self, *, predicted_accuracy: float | None, verified_accuracy: float | None) -> OnnxFile:
        """Its ONNX file, which onnxruntime has run with the same results as torch. The accuracies go into the metadata.

        Raises:
            ExportError (a ValueError): the network cannot be written, or the file's results differ.
        """
        metadata = export_metadata(
            self.bundle,
            self.arch,
            batch_norm=self.batch_norm,
            predicted_accuracy=predicted_accuracy,
            verified_accuracy=verified_accuracy,
        )
        return export_subnet(self.network, self.evaluator.sample(self.arch.resolution), metadata)


def extract_subnet(
    bundle: Bundle, evaluator: Evaluator, arch: Architecture, batch_norm: BatchNorm = "recalibrated"
) -> Subnet:
    """Extract a subnet and recalibrate its batch norm.

    evaluator: the bundle's. batch_norm: `stored` keeps the supernet's statistics.

    Raises:
        ValueError: there are no images to recalibrate with.
    """
    return Subnet(bundle, evaluator, arch, batch_norm, evaluator.subnet(arch, batch_norm))
