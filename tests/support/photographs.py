"""Folders of photographs for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

from supernet.data import Dataset, ImageFiles, load


def photographs(folder: Path) -> Dataset:
    """20 noisy photographs, which are decoded on the fly."""
    classes = folder / "train"
    if not classes.exists():
        rng = np.random.default_rng(0)
        for number in range(20):
            path = classes / str(number % 2) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 24), np.uint8)).save(path)
    dataset = load(str(folder), 16, seed=0, holdout=2, root=folder, channels=1, cache_bytes=0)
    assert isinstance(dataset.train, ImageFiles)
    return dataset
