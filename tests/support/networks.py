"""Small networks as people write them, to be converted. Each takes images of 32 pixels and returns (N, 10) logits."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 32
CLASSES = 10


@torch.no_grad()
def with_random_statistics(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, scales and running statistics, so that a wrong channel of any of them shows in the logits."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.weight.uniform_(0.5, 1.5, generator=generator)
            layer.bias.normal_(0, 0.1, generator=generator)
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.normal_(0, layer.weight[0].numel() ** -0.5, generator=generator)
    return network.eval()


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, **options: Any
) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions; functions instead of layers for what has no weights."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = conv_norm(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class CifarResNet(nn.Module):
    """kuangliu/pytorch-cifar's style: `F.avg_pool2d` of the last map, `view` with a size read from the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(BasicBlock(16, 16, 1) for _ in range(2)))
        self.layer2 = nn.Sequential(BasicBlock(16, 32, 2), *(BasicBlock(32, 32, 1) for _ in range(3)))
        self.layer3 = nn.Sequential(BasicBlock(32, 48, 2), BasicBlock(48, 48, 1))
        self.linear = nn.Linear(48, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, 8)
        out = out.view(out.size(0), -1)
        return self.linear(F.dropout(out, 0.2, training=self.training))


class SqueezeExcite(nn.Module):
    """SENet's own style: linear layers between two `view`s, and `expand_as`."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, squeezed), nn.ReLU(inplace=True), nn.Linear(squeezed, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = self.fc(self.avg_pool(x).view(b, c)).view(b, c, 1, 1)
        return x * y.expand_as(x)


class SqueezedBottleneck(nn.Module):
    """1 x 1, grouped 3 x 3 and 1 x 1 convolutions, with squeeze-and-excite inside and before the sum."""

    def __init__(self, in_channels: int, width: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(in_channels, width),
            nn.SiLU(inplace=True),
            conv_norm(width, width, 3, stride, groups=width // 4),
            nn.SiLU(inplace=True),
            SqueezeExcite(width, width // 2),
            conv_norm(width, out_channels),
            SqueezeExcite(out_channels, 8),
        )
        self.down = None
        if stride != 1 or in_channels != out_channels:
            self.down = nn.Sequential(nn.AvgPool2d(stride, ceil_mode=True), conv_norm(in_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x).add(x if self.down is None else self.down(x)))


def squeezed_resnext() -> nn.Module:
    return nn.Sequential(
        conv_norm(3, 24, 3),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        SqueezedBottleneck(24, 24, 40, 1),
        SqueezedBottleneck(40, 32, 40, 1),
        SqueezedBottleneck(40, 64, 56, 2),
        SqueezedBottleneck(56, 64, 56, 1),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(56, CLASSES),
    )


class HandWrittenSwish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (F.relu6(x + 3.0, inplace=True) / 6.0)


class HandWrittenSigmoid(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu6(x + 3) * 0.16666666666666666


class MobileBlock(nn.Module):
    """An inverted residual with squeeze-and-excite of convolutions."""

    def __init__(self, in_channels: int, width: int, out_channels: int, stride: int, activation: nn.Module) -> None:
        super().__init__()
        self.residual = stride == 1 and in_channels == out_channels
        self.expand = nn.Sequential(conv_norm(in_channels, width), activation)
        self.depthwise = nn.Sequential(conv_norm(width, width, 5, stride, groups=width), activation)
        self.reduce, self.widen = nn.Conv2d(width, 16, 1), nn.Conv2d(16, width, 1)
        self.gate = HandWrittenSigmoid()
        self.project = conv_norm(width, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        scale = self.gate(self.widen(F.relu(self.reduce(F.adaptive_avg_pool2d(y, 1)))))
        y = self.project(torch.mul(scale, y))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """MobileNetV3's blocks in the style before torch had h-swish; a mean over one dimension after the other."""

    def __init__(self) -> None:
        super().__init__()
        swish = HandWrittenSwish()
        self.stem = nn.Sequential(conv_norm(3, 16, 3, 2), swish, conv_norm(16, 16, 3, groups=16), nn.ReLU6())
        self.features = nn.Sequential(
            MobileBlock(16, 32, 24, 1, swish),
            MobileBlock(24, 48, 24, 1, swish),
            MobileBlock(24, 72, 24, 1, nn.ReLU6()),
            MobileBlock(24, 48, 40, 2, swish),
            MobileBlock(40, 40, 48, 1, nn.Hardswish()),
        )
        self.head = nn.Conv2d(48, 64, 1)
        self.classifier = nn.Sequential(
            nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32), nn.Hardswish(), nn.Linear(32, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.head(self.features(self.stem(x))))
        return self.classifier(x.mean(3).mean(2))


class PreActivationBlock(nn.Module):
    """Batch norm and ReLU before each convolution (arXiv:1603.05027)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(in_channels), nn.BatchNorm2d(out_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + shortcut


def pre_activation_resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1),
        PreActivationBlock(16, 32, 2),
        PreActivationBlock(32, 32, 1),
        PreActivationBlock(32, 32, 1),
        nn.BatchNorm2d(32),
        nn.GELU(),
        nn.Conv2d(32, CLASSES, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class PlainNet(nn.Module):
    """VGG's and LeNet's kind: no residual, windows of even size, no padding, the whole map read by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 5), nn.Conv2d(16, 24, 3, padding=2, dilation=2)
        self.conv3 = nn.Conv2d(24, 32, 2, stride=2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(32 * 2 * 2, 40), nn.Linear(40, 24), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.avg_pool2d(torch.sigmoid(self.conv2(x)), 3, stride=2, padding=1)
        x = F.gelu(self.conv3(x))
        x = torch.flatten(F.max_pool2d(x, 2, padding=1), 1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class SamePadded(nn.Conv2d):
    """A convolution padded as TensorFlow pads, at even image sizes (EfficientNet-PyTorch's style)."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, bias=False, **options)
        total = self.kernel_size[0] - self.stride[0]
        self.static_padding = nn.ZeroPad2d((total // 2, total - total // 2, total // 2, total - total // 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.static_padding(x)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def same_padded() -> nn.Module:
    return nn.Sequential(
        SamePadded(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU6(),
        SamePadded(16, 16, 5, 2, groups=16), nn.BatchNorm2d(16), nn.ReLU6(),
        SamePadded(16, 24, 1, 1), nn.BatchNorm2d(24),
        nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(24, 32, 2, bias=True), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cifar-resnet": CifarResNet,
    "squeezed-resnext": squeezed_resnext,
    "mobilenet": MobileNet,
    "pre-activation-resnet": pre_activation_resnet,
    "same-padded": same_padded,
    "plain": PlainNet,
}
