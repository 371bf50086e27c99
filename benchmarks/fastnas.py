"""ModelOpt's FastNAS prunes a network to a share of its FLOPs: `python -m benchmarks.fastnas --help`.

Runs in an environment of its own: `pip install nvidia-modelopt torch torchvision huggingface_hub`. The sensitivity of
every width is measured, as ModelOpt's search does, by the accuracy on held-out images; the images come as a file that
benchmarks.cifar10_start writes.
"""

import argparse
import time
from pathlib import Path

import modelopt.torch.prune as mtp
import torch
from modelopt.torch.prune.fastnas import FastNASConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.mobile_networks import SamePadded, random_lite0
from benchmarks.narrowing import of_widths

BATCH = 250
CALIBRATION_BATCHES = 50  # with fewer, ModelOpt scores subnets without recalibrating their batch norm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", type=Path, help="state dict of EfficientNet-Lite0, safetensors")
    parser.add_argument("images", type=Path, help="normalised `calibration` and `holdout` images, and `labels`")
    parser.add_argument("output", type=Path)
    parser.add_argument("--flops", type=float, required=True, help="multiply-adds, at most")
    options = parser.parse_args()
    images = load_file(options.images)
    network = of_widths(random_lite0(), load_file(options.network)).eval()
    plain = nn.Sequential(network)  # ModelOpt changes the network in place
    padded_outside(network)
    calibration, holdout = images["calibration"].tensor_split(CALIBRATION_BATCHES), images["holdout"].split(BATCH)
    started, scores = time.process_time(), 0

    def score(subnet: nn.Module) -> float:
        nonlocal scores
        scores += 1
        guesses = torch.cat([subnet(batch).argmax(1) for batch in holdout])
        return float((guesses == images["labels"]).float().mean())

    config = FastNASConfig()
    ratios = tuple(number / 8 for number in range(1, 9))
    config["nn.Conv2d"]["*"] |= {"channels_ratio": ratios, "channel_divisor": 8}
    config["nn.BatchNorm2d"]["*"] |= {"features_ratio": ratios, "feature_divisor": 8}
    with torch.no_grad():
        mtp.prune(
            network,
            mode=[("fastnas", config)],
            constraints={"flops": 2 * options.flops},  # ModelOpt counts a multiply-add as two
            dummy_input=calibration[0][:1],
            config={
                "data_loader": calibration,
                "collect_func": lambda batch: batch,
                "score_func": score,
                "checkpoint": str(options.output.with_suffix(".search.pth")),
            },
        )
    print(f"{scores} networks scored, {time.process_time() - started:.0f} processor seconds")
    save_file(inside(plain[0].state_dict()), options.output)


def padded_outside(network: nn.Module) -> None:
    """Replace convolutions padded as TensorFlow pads by padding and a plain convolution, which ModelOpt knows."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, SamePadded):
                sizes = layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride
                conv = nn.Conv2d(*sizes, groups=layer.groups, bias=False)
                conv.weight = layer.weight
                setattr(parent, name, nn.Sequential(layer.static_padding, conv))


def inside(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that they had before `padded_outside`."""
    return {name.replace(".1.weight", ".weight"): tensor.contiguous() for name, tensor in state.items()}


if __name__ == "__main__":
    main()
