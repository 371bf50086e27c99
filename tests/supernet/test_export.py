"""The ONNX writer says what torch says, for every layer it knows, and refuses the rest by name."""

import io
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from supernet.data import Normalization
from supernet.export.parity import ParityError, check_parity, export_metadata, export_subnet, run_onnx
from supernet.export.writer import ExportError, to_onnx
from supernet.families import preset, supernet_class

DIGITS = preset("mbv3-digits")


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """Fixed weights, and batch norms with statistics, scales and shifts of their own; evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.data.uniform_(-0.5, 0.5, generator=generator)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.5, 0.5, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0, generator=generator)
    return network.eval()


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def subnet(name: str, seed: int, resolution: int | None = None) -> tuple[nn.Module, tuple[int, int, int]]:
    space = preset(name)
    supernet = supernet_class(space.family)(space, torch.Generator().manual_seed(seed))
    arch = space.decode(space.sample(np.random.default_rng(seed), 1)[0])
    arch = arch.at(resolution or arch.resolution)
    return lively(supernet.eval().extract(arch), seed), (space.in_channels, arch.resolution, arch.resolution)


@pytest.mark.parametrize("seed", range(6))
def test_random_subnets_agree_with_torch_at_any_batch_size(seed: int) -> None:
    network, shape = subnet("mbv3-digits", seed)
    data = to_onnx(network, shape)
    onnx.checker.check_model(data, full_check=True)
    for batch in (1, 3):
        assert check_parity(data, network, images(batch, *shape)) < 1e-5


def test_an_imagenet_subnet_agrees_with_torch() -> None:
    network, shape = subnet("mbv3-imagenet-w1.0", 0, resolution=112)
    data = to_onnx(network, shape)
    onnx.checker.check_model(data, full_check=True)
    check_parity(data, network, images(2, *shape))


@pytest.mark.slow
def test_outputs_equal_those_of_the_exporter_of_torch() -> None:
    network, shape = subnet("mbv3-digits", 3)
    pixels = images(3, *shape)
    buffer = io.BytesIO()
    program = torch.onnx.export(
        network, (pixels,), input_names=["images"], dynamo=True, opset_version=18, verbose=False
    )
    assert program is not None
    program.save(buffer)
    oracle = run_onnx(buffer.getvalue(), pixels.numpy())
    np.testing.assert_allclose(run_onnx(to_onnx(network, shape), pixels.numpy()), oracle, rtol=1e-5, atol=1e-5)


class Module(nn.Module):
    """torch's, whose type the checker does not know."""


class EveryForm(Module):
    """Layers, functions and methods of all families in one network: residual, dense, shuffled, pooled both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.left = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.right = nn.Conv2d(4, 4, 1, groups=2, bias=False)
        self.left_norm, self.right_norm = nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.clip, self.swish, self.relu = nn.ReLU6(), nn.Hardswish(inplace=True), nn.ReLU(inplace=True)
        self.late_norm = nn.BatchNorm2d(16)
        self.drop, self.same = nn.Dropout(0.5), nn.Identity()
        self.head = nn.Linear(16, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.clip(self.stem_norm(self.stem(x))))
        a, b = x.chunk(2, dim=1)
        a, b = self.left(a), self.right(b)
        a, b = self.left_norm(a), self.right_norm(b)
        y = torch.cat([self.swish(a), nn.functional.hardswish(b)], 1)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().reshape(-1, c, y.size(2), w)
        y = x + y * self.gate(y)
        y = torch.relu(y).mul(nn.functional.hardsigmoid(y)).add(nn.functional.relu6(y))
        y = self.late_norm(torch.cat((y, self.relu(y)), dim=1))
        z = (
            y.mean((2, 3))
            + torch.flatten(nn.functional.adaptive_avg_pool2d(y, 1), 1)
            + y.mean([3, 2], keepdim=True).flatten(1)
        )
        return self.head(self.same(self.drop(z)))


def test_every_form_of_every_layer_agrees_with_torch() -> None:
    network = lively(EveryForm())
    data = to_onnx(network, (3, 32, 32))
    onnx.checker.check_model(data, full_check=True)
    for batch in (1, 3):
        assert check_parity(data, network, images(batch, 3, 32, 32)) < 1e-5


class SharedConv(Module):
    """Somebody else reads the convolution's output, so its batch norm must not be folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


@pytest.mark.parametrize("network", [SharedConv(), nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1))])
def test_a_batch_norm_that_cannot_be_folded_is_written_out(network: nn.Module) -> None:
    lively(network)
    assert check_parity(to_onnx(network, (3, 6, 6)), network, images(2, 3, 6, 6)) < 1e-5


def test_batch_norms_are_folded_and_names_and_shapes_are_as_promised() -> None:
    network, shape = subnet("mbv3-digits", 0)
    graph = onnx.load_from_string(to_onnx(network, shape)).graph
    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("Conv") == convolutions
    assert "BatchNormalization" not in kinds
    sizes = {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
             for value in (*graph.input, *graph.output)}  # fmt: skip
    assert sizes == {"images": ["N", *shape], "logits": ["N", DIGITS.classes]}


def test_equal_networks_have_equal_bytes_without_source_paths() -> None:
    (first, shape), (second, _) = subnet("mbv3-digits", 2), subnet("mbv3-digits", 2)
    data = to_onnx(first, shape, {"b": "2", "a": "1"})
    assert data == to_onnx(second, shape, {"a": "1", "b": "2"})
    assert data != to_onnx(second, shape, {"a": "1", "b": "3"})
    assert b".py" not in data
    assert b"site-packages" not in data


def test_metadata_names_predicted_and_verified_accuracy_apart() -> None:
    arch = DIGITS.largest()
    bundle: Any = SimpleNamespace(
        space=DIGITS, hash="ab" * 32, classes=["0", "1"], normalization=Normalization((0.3,), (0.4,))
    )
    network, shape = subnet("mbv3-digits", 0)
    metadata = export_metadata(bundle, arch, predicted_accuracy=0.97)
    model = onnx.load_from_string(to_onnx(network, shape, metadata))
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert found == metadata
    assert json.loads(found["architecture"]) == arch.to_json()
    assert json.loads(found["normalization"]) == {"mean": [0.3], "std": [0.4]}
    assert json.loads(found["classes"]) == ["0", "1"]
    assert (found["architecture_id"], found["bundle_sha256"]) == (DIGITS.id(arch), "ab" * 32)
    assert (found["resolution"], found["predicted_accuracy"]) == ("16", "0.97")
    assert "verified_accuracy" not in found
    assert export_metadata(bundle, arch, verified_accuracy=0.5)["verified_accuracy"] == "0.5"


def test_an_exported_subnet_was_compared() -> None:
    network, shape = subnet("mbv3-digits", 1)
    pixels = images(4, *shape)
    file = export_subnet(network, pixels, {"key": "value"})
    assert file.data == to_onnx(network, shape, {"key": "value"})
    assert file.difference == check_parity(file.data, network, pixels)


@pytest.mark.parametrize("value", [3.0, float("nan")])
def test_a_corrupted_weight_is_a_parity_error(value: float) -> None:
    network, shape = subnet("mbv3-digits", 1)
    model = onnx.load_from_string(to_onnx(network, shape))
    weight = model.graph.initializer[-2]  # of the classifier
    weight.raw_data = np.array(value, "<f4").tobytes() + weight.raw_data[4:]
    with pytest.raises(ParityError, match=r"differ from torch by .* limit is"):
        check_parity(model.SerializeToString(), network, images(2, *shape))


def test_a_network_that_amplifies_rounding_need_only_be_as_exact_as_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(2048, generator=generator)
    large = 1e4 * torch.rand(1024, generator=generator)
    cancelling = nn.Linear(2048, 10)
    cancelling.weight.data[:] = torch.cat([large, -large])[order]  # their products with equal features add up to 0
    spread = nn.Conv2d(3, 2048, 1)
    spread.weight.data[:] = spread.weight.data[:1024].repeat(2, 1, 1, 1)[order]
    spread.bias = None
    network = nn.Sequential(spread, nn.AdaptiveAvgPool2d(1), nn.Flatten(), cancelling).eval()
    data, pixels = to_onnx(network, (3, 4, 4)), images(8, 3, 4, 4)
    with torch.inference_mode():
        logits = network(pixels)
    assert check_parity(data, network, pixels) > 1e-4 * max(1.0, float(logits.abs().max()))
    cancelling.bias.data += 100
    with pytest.raises(ParityError, match=r"differ from torch by .* limit is"):
        check_parity(data, network, pixels)


def test_another_number_of_classes_is_a_parity_error() -> None:
    network, shape = subnet("mbv3-digits", 1)
    data = to_onnx(nn.Sequential(network, nn.Linear(10, 3)).eval(), shape)
    with pytest.raises(ParityError, match=r"\(2, 3\)"):
        check_parity(data, network, images(2, *shape))


class Sine(Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


class Branch(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Pair(Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class PlusOne(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Mish()), r"layer '1' \(Mish\).*_LAYERS"),
        (Sine(), r"\(sin\).*_FUNCTIONS"),
        (PlusOne(), r"\(add\).*two tensors"),
        (Branch(), "not static"),
        (Pair(), "one tensor"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2)), "only to 1"),
        (nn.Sequential(nn.Flatten(2)), "only from 1"),
        (nn.Sequential(nn.Linear(8, 2)), "flatten before it"),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding="same")), "in pixels"),
        (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)), "ceil_mode"),
        (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), "running statistics"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused_by_name(network: nn.Module, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        to_onnx(network.eval(), (3, 8, 8))


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(ExportError, match="training mode"):
        to_onnx(nn.Sequential(nn.Conv2d(3, 4, 1)), (3, 8, 8))
