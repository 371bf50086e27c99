"""Splits are disjoint and seeded; resizing, normalising and augmenting keep ranges and shapes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from supernet.augmentation import DRAWS, Augmentation
from supernet.data import Images, Normalization, load, resize, sample_folder
from supernet.evaluate import Views, perturbed


def draws(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(seed))


def in_memory(*arguments: Any, **options: Any) -> Any:
    dataset = load(*arguments, **options)
    assert isinstance(dataset.train, Images)
    return dataset


def rows(images: Images) -> set[bytes]:
    return {pixels.numpy().tobytes() for pixels in images.pixels}


def test_digits_are_split_disjointly_by_the_seed(tmp_path: Path) -> None:
    one, again, other = (in_memory("digits", 16, seed=seed, holdout=300, root=tmp_path) for seed in (0, 0, 1))
    assert one.test is not None
    assert (len(one.train), len(one.holdout), len(one.test)) == (1138, 300, 359)
    assert one.train.pixels.shape[1:] == (1, 16, 16)
    assert one.train.pixels.dtype == torch.uint8
    assert torch.equal(one.train.pixels, again.train.pixels)
    assert not torch.equal(one.test.labels, (other.test or one.train).labels)
    assert not rows(one.train) & rows(one.holdout)
    assert not rows(one.train) & rows(one.test)
    assert not rows(one.holdout) & rows(one.test)
    labels = torch.cat([one.train.labels, one.holdout.labels, one.test.labels])
    assert torch.equal(labels.bincount(), torch.tensor([178, 182, 177, 183, 181, 182, 181, 179, 174, 180]))


def test_normalised_training_images_have_mean_zero_and_deviation_one(tmp_path: Path) -> None:
    dataset = in_memory("digits", 16, seed=0, holdout=300, root=tmp_path)
    pixels = dataset.normalization(dataset.train.pixels, 16)
    assert abs(float(pixels.mean())) < 1e-3
    assert abs(float(pixels.std()) - 1) < 1e-3


def image_folder(root: Path, splits: dict[str, list[str]]) -> Path:
    rng = np.random.default_rng(0)
    for split, classes in splits.items():
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(0, 255, (20 + number, 30, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def test_an_image_folder_is_decoded_cropped_and_split(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, {"train": ["cat", "dog"], "val": ["cat", "dog"]})
    dataset = in_memory(str(folder), 16, seed=0, holdout=2, root=tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.pixels.shape == (6, 3, 16, 16)
    assert dataset.test is not None
    assert len(dataset.test) == 8
    assert in_memory(str(folder), 16, seed=0, holdout=2, root=tmp_path, channels=1).train.pixels.shape[1] == 1


def test_bad_sources_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no dataset 'nope'"):
        load("nope", 16, seed=0, holdout=1, root=tmp_path)
    with pytest.raises(ValueError, match="has no folder train/"):
        load(str(tmp_path), 16, seed=0, holdout=1, root=tmp_path)
    with pytest.raises(ValueError, match="holdout is 5000 images; digits has 1438"):
        load("digits", 16, seed=0, holdout=5000, root=tmp_path)
    for source, channels in (("digits", 1), (str(tmp_path), 2)):
        with pytest.raises(ValueError, match=f"channels is {channels}; it is 1 or 3, for folders"):
            load(source, 16, seed=0, holdout=1, root=tmp_path, channels=channels)
    with pytest.raises(ValueError, match=r"augmentation.shift is nan"):
        Augmentation(shift=float("nan"))
    with pytest.raises(ValueError, match=r"views.count is -1"):
        Views(-1)
    folder = image_folder(tmp_path / "uneven", {"train": ["cat", "dog"], "test": ["cat", "cow"]})
    with pytest.raises(ValueError, match="must have the same classes; they differ in cow, dog"):
        load(str(folder), 16, seed=0, holdout=1, root=tmp_path)


def test_resizing_keeps_range_and_the_same_side_is_untouched() -> None:
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(resize(pixels, 16), pixels.float())
    smaller = resize(pixels, 8)
    assert smaller.shape == (2, 3, 8, 8)
    assert 0 <= float(smaller.min()) <= float(smaller.max()) <= 255
    constant = Normalization((0.5,), (0.25,))(torch.full((1, 1, 16, 16), 255, dtype=torch.uint8), 12)
    assert torch.allclose(constant, torch.full((1, 1, 12, 12), 2.0))


def test_augmentation_is_seeded_and_none_is_the_identity() -> None:
    pixels = torch.randint(0, 256, (4, 1, 16, 16), dtype=torch.uint8)
    assert torch.allclose(Augmentation()(pixels, draws(len(pixels), 0)), pixels.float(), atol=1e-3)
    strong = Augmentation(shift=0.2, rotate=20, scale=0.2, flip=True)
    first, again, other = (strong(pixels, draws(4, seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0 <= float(first.min()) <= float(first.max()) <= 255


def test_flipping_alone_mirrors_some_images_and_leaves_the_others() -> None:
    pixels = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8)
    flipped = Augmentation(flip=True)(pixels, draws(len(pixels), 0))
    kept = (flipped - pixels).abs().amax((1, 2, 3)) < 1e-2
    mirrored = (flipped - pixels.flip(3)).abs().amax((1, 2, 3)) < 1e-2
    assert torch.all(kept ^ mirrored)
    assert 16 < int(kept.sum()) < 48


def test_perturbed_views_are_fixed_by_their_seed() -> None:
    images = Images(torch.randint(0, 256, (5, 1, 16, 16), dtype=torch.uint8), torch.arange(5))
    views = perturbed(images, Views(8, 3))
    assert views.pixels.shape == (40, 1, 16, 16)
    assert torch.equal(views.labels, torch.arange(5).repeat(8))
    assert torch.equal(views.pixels, perturbed(images, Views(8, 3)).pixels)
    assert not torch.equal(views.pixels, perturbed(images, Views(8, 4)).pixels)
    assert perturbed(images, Views()) is images


def photographs(folder: Path, count: int) -> Path:
    """Images of 40 x 30 pixels, plain ones and some in folders, each of one grey level."""
    (folder / "cat").mkdir(parents=True)
    for number in range(count):
        name = folder / ("cat" if number % 2 else "") / f"{number}.png"
        Image.new("RGB", (40, 30), (number, number, number)).save(name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_sample_of_a_folder_is_seeded_and_of_one_size(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "images", 20)
    every = sample_folder(folder, 16, most=100, seed=0)
    assert every.pixels.shape == (20, 3, 16, 16)
    assert sorted(every.pixels[:, 0, 8, 8].tolist()) == list(range(20))
    some = sample_folder(folder, 16, most=5, seed=0)
    assert len(set(some.pixels[:, 0, 8, 8].tolist())) == len(some) == 5
    assert torch.equal(some.pixels, sample_folder(folder, 16, most=5, seed=0).pixels)
    assert not torch.equal(some.pixels, sample_folder(folder, 16, most=5, seed=1).pixels)


def test_a_sampled_image_is_the_centre_of_which_an_eighth_is_cut_off(tmp_path: Path) -> None:
    gradient = np.broadcast_to(np.arange(256, dtype=np.uint8), (256, 256))
    Image.fromarray(np.stack([gradient] * 3, 2)).save(tmp_path / "a.png")
    row = sample_folder(tmp_path, 224, most=1, seed=0).pixels[0, 0, 0]
    assert row.tolist() == list(range(16, 240))


def test_a_folder_without_images_or_with_a_broken_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no images; it may be laid out as"):
        sample_folder(tmp_path, 16, most=5, seed=0)
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read as an image; replace it"):
        sample_folder(tmp_path, 16, most=5, seed=0)
