"""How long writing an ONNX file takes, beside torch's own exporter: `python -m benchmarks.export`.

The same extracted network is written in turns by both, in one process and on one thread; both files are then compared
with torch in onnxruntime.
"""

import io
import time
from statistics import median

import torch

from supernet.export.parity import check_parity
from supernet.export.writer import to_onnx
from supernet.families import preset, supernet_class

ROUNDS = 5


def main() -> None:
    torch.set_num_threads(1)
    for name in ("mbv3-digits", "mbv3-imagenet-w1.0"):
        space = preset(name)
        supernet = supernet_class(space.family)(space, torch.Generator().manual_seed(0)).eval()
        arch = space.largest()
        network = supernet.extract(arch)
        shape = (space.in_channels, arch.resolution, arch.resolution)
        images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
        ours, theirs = [], []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            data = to_onnx(network, shape)
            ours.append(time.perf_counter() - started)
            started = time.perf_counter()
            program = torch.onnx.export(network, (images[:1],), dynamo=True, verbose=False)
            assert program is not None
            buffer = io.BytesIO()
            program.save(buffer)
            theirs.append(time.perf_counter() - started)
        ratio = median(b / a for a, b in zip(ours, theirs, strict=True))
        print(f"{name}, largest: {1e3 * median(ours):.0f} ms, torch.onnx.export {ratio:.0f} times as long,", end=" ")
        print(f"{len(data):,} bytes, largest difference from torch {check_parity(data, network, images):.1e}")


if __name__ == "__main__":
    main()
