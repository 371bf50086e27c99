"""Splits are disjoint and seeded; resizing, normalising and augmenting keep ranges and shapes; batches are functions
of seed, phase and step, from memory and from disk."""

import multiprocessing
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from supernet.data import ImageFiles, Images, Normalization, load, resize, sample_folder
from supernet.evaluation.evaluate import batches, perturbed
from supernet.evaluation.views import Views
from supernet.training.augmentation import Augmentation, random_numbers
from supernet.training.batches import Batch, Batches, _end_with_parent
from supernet.training.schedule import Phase, Schedule


def draws(count: int, seed: int) -> torch.Tensor:
    return random_numbers(count, torch.Generator().manual_seed(seed))


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


def test_a_folder_of_classes_alone_is_all_for_training(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, {"train": ["cat", "dog"]}) / "train"
    dataset = in_memory(str(folder), 16, seed=0, holdout=2, root=tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert (len(dataset.train), len(dataset.holdout), dataset.test) == (6, 2, None)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_cifar_is_read_as_torchvision_downloads_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)

    class Downloaded:
        classes = ("cat", "dog")

        def __init__(self, root: Path, train: bool, download: bool) -> None:
            assert (root, download) == (tmp_path, True)
            self.data = pixels if train else pixels[:2]
            self.targets = [0, 1, 0, 1, 0, 1][: len(self.data)]

    monkeypatch.setattr(f"torchvision.datasets.{name}", Downloaded)
    dataset = in_memory(name.lower(), 32, seed=0, holdout=2, root=tmp_path)
    assert (len(dataset.train), len(dataset.holdout)) == (4, 2)
    assert isinstance(dataset.test, Images)
    assert np.array_equal(dataset.test.pixels.permute(0, 2, 3, 1).numpy(), pixels[:2])
    assert dataset.test.labels.tolist() == [0, 1]
    assert in_memory(name.lower(), 16, seed=0, holdout=2, root=tmp_path).train.pixels.shape == (4, 3, 16, 16)


def test_bad_sources_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no dataset 'nope'"):
        load("nope", 16, seed=0, holdout=1, root=tmp_path)
    with pytest.raises(ValueError, match="holds no folders; put the images of each class into a folder"):
        load(str(tmp_path), 16, seed=0, holdout=1, root=tmp_path)
    lonely = image_folder(tmp_path / "lonely", {"test": ["cat"]})
    with pytest.raises(ValueError, match=r"has test/ but no train/; images to train on belong in train/CLASS/"):
        load(str(lonely), 16, seed=0, holdout=1, root=tmp_path)
    with pytest.raises(ValueError, match="holdout is 5000 images; digits has 1438"):
        load("digits", 16, seed=0, holdout=5000, root=tmp_path)
    for source, channels in (("digits", 1), (str(tmp_path), 2)):
        with pytest.raises(ValueError, match=f"channels is {channels}; it is 1 or 3, for folders only"):
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
    every = sample_folder(folder, 16, limit=100, seed=0)
    assert every.pixels.shape == (20, 3, 16, 16)
    assert sorted(every.pixels[:, 0, 8, 8].tolist()) == list(range(20))
    some = sample_folder(folder, 16, limit=5, seed=0)
    assert len(set(some.pixels[:, 0, 8, 8].tolist())) == len(some) == 5
    assert torch.equal(some.pixels, sample_folder(folder, 16, limit=5, seed=0).pixels)
    assert not torch.equal(some.pixels, sample_folder(folder, 16, limit=5, seed=1).pixels)


def test_a_sampled_image_is_the_centre_of_which_an_eighth_is_cut_off(tmp_path: Path) -> None:
    gradient = np.broadcast_to(np.arange(256, dtype=np.uint8), (256, 256))
    Image.fromarray(np.stack([gradient] * 3, 2)).save(tmp_path / "a.png")
    row = sample_folder(tmp_path, 224, limit=1, seed=0).pixels[0, 0, 0]
    assert row.tolist() == list(range(16, 240))


def test_a_folder_without_images_or_with_a_broken_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no images; put images into it or into folders"):
        sample_folder(tmp_path, 16, limit=5, seed=0)
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read as an image; replace or remove it"):
        sample_folder(tmp_path, 16, limit=5, seed=0)


def test_padding_cuts_windows_from_an_image_with_a_black_border() -> None:
    pixels = torch.randint(1, 256, (64, 1, 8, 8), dtype=torch.uint8)
    padded = torch.nn.functional.pad(pixels, (2, 2, 2, 2))
    windows = padded.unfold(2, 8, 1).unfold(3, 8, 1)  # (64, 1, 5, 5, 8, 8)
    moved = Augmentation(pad=2)(pixels, draws(64, 0))
    distance = (windows - moved[:, :, None, None]).abs().amax((1, 4, 5)).view(64, 25)
    assert torch.all(distance.amin(1) < 1e-2)
    assert len(distance.argmin(1).unique()) > 15


def test_cutout_covers_a_square_anywhere_on_the_image_with_its_mean_colour() -> None:
    pixels = torch.rand(500, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255
    covered = Augmentation(cutout=6)(pixels, draws(500, 0))
    changed = (covered != pixels).any(1)
    rows, columns = changed.any(2), changed.any(1)
    assert torch.equal(changed, rows[:, :, None] & columns[:, None, :])
    assert torch.equal(covered, torch.where(changed[:, None], pixels.mean((2, 3), keepdim=True), pixels))
    for covers in (rows, columns):
        assert set(covers.sum(1).tolist()) == {3, 4, 5, 6}  # fewer where the square reaches over the edge
        first, last = covers.int().argmax(1), 15 - covers.int().flip(1).argmax(1)
        assert torch.equal(last - first + 1, covers.sum(1))
        assert set(first.tolist()) == set(range(13))


def test_random_crops_have_the_area_and_the_aspect_asked_for() -> None:
    boxes = Augmentation(crop=0.3).boxes(draws(1_000, 0), aspect=1.5)
    left, top, width, height = boxes.T
    assert torch.all((left >= 0) & (top >= 0) & (left + width <= 1 + 1e-6) & (top + height <= 1 + 1e-6))
    whole = (width < 1) & (height < 1)  # those that did not reach over the image
    assert whole.sum() > 500
    area, aspect = (width * height)[whole], (1.5 * width / height)[whole]
    assert 0.3 <= float(area.min()) < 0.35
    assert 0.7 < float(area.max()) <= 1
    assert 3 / 4 - 1e-4 <= float(aspect.min()) < 0.8 < 1.25 < float(aspect.max()) <= 4 / 3 + 1e-4


def test_a_crop_of_an_image_in_memory_is_its_box_enlarged() -> None:
    ramp = torch.arange(32.0).mul(8).expand(1, 1, 32, 32).to(torch.uint8)
    crop = Augmentation(crop=0.25)
    drawn = draws(1, 3)
    left, _, width, _ = crop.boxes(drawn)[0].tolist()
    centres = (left + width * (torch.arange(32) + 0.5) / 32) * 32 - 0.5
    assert torch.allclose(crop(ramp, drawn)[0, 0, 0], centres.clamp(0, 31) * 8, atol=0.1)


def test_recolouring_changes_brightness_contrast_and_saturation_alone() -> None:
    pixels = torch.full((16, 3, 4, 4), 100, dtype=torch.uint8)
    pixels[:, :, :2] = torch.tensor([60, 100, 140], dtype=torch.uint8).view(3, 1, 1)
    drawn = draws(16, 0)
    factor = 1 + (2 * drawn[:, 9] - 1) * 0.2
    brighter = Augmentation(brightness=0.2)(pixels, drawn)
    assert torch.allclose(brighter, pixels * factor.view(-1, 1, 1, 1))
    greyer = Augmentation(saturation=1.0)(pixels, drawn)
    assert torch.allclose(greyer[:, :, 2:], pixels[:, :, 2:].float(), atol=1e-2)  # grey has no colour to lose
    assert not torch.allclose(greyer[:, :, :2], pixels[:, :, :2].float(), atol=1)
    flat = Augmentation(contrast=1.0)(pixels, torch.zeros_like(drawn))
    assert float(flat.std((1, 2, 3)).max()) < 1e-3


# Batches, from memory and from disk.

PHASES = (Phase("one", 1, 0.1),)


@pytest.mark.parametrize("crop", [None, 0.3])
def test_files_decoded_on_the_fly_give_the_same_batches_whoever_decodes_them(
    tmp_path: Path, crop: float | None
) -> None:
    folder = image_folder(tmp_path, {"train": ["cat", "dog"], "test": ["cat", "dog"]})
    options: dict[str, Any] = {"seed": 0, "holdout": 2, "root": tmp_path}
    cached, streamed = in_memory(str(folder), 16, **options), load(str(folder), 16, cache_bytes=6 * 3 * 255, **options)
    assert isinstance(streamed.train, ImageFiles)
    assert isinstance(streamed.test, ImageFiles)
    assert torch.equal(streamed.holdout.pixels, cached.holdout.pixels)
    assert streamed.normalization == cached.normalization
    assert streamed.hash == cached.hash
    schedule = Schedule(PHASES, 2, augmentation=Augmentation(crop=crop, flip=True))
    expected = Batches(streamed.train, schedule, 0)
    ahead = list(expected.steps(1, 7, 2, False))
    for step, batch in enumerate(ahead, 1):
        here = expected[step]
        assert isinstance(here, Batch)
        assert all(torch.equal(one, other) for one, other in zip(batch, here, strict=True))
        in_cache = Batches(cached.train, schedule, 0)[step]
        assert isinstance(in_cache, Batch)
        assert torch.equal(batch.labels, in_cache.labels)
        assert torch.equal(batch.pixels, in_cache.pixels) == (crop is None)
    scored = [torch.cat(parts) for parts in zip(*batches(streamed.test, 16, streamed.normalization), strict=True)]
    kept = [torch.cat(parts) for parts in zip(*batches(cached.test, 16, streamed.normalization), strict=True)]
    assert all(torch.equal(one, other) for one, other in zip(scored, kept, strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's prctl")
def test_a_worker_ends_with_the_process_that_started_it_even_while_it_waits_for_a_lock() -> None:
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    lock = fork.Lock()
    lock.acquire()

    def work() -> None:
        _end_with_parent(0)
        sender.send("waiting")
        lock.acquire(timeout=60)

    def start() -> None:
        fork.Process(target=work).start()
        lock.acquire(timeout=60)

    parent = fork.Process(target=start)
    parent.start()
    sender.close()
    assert receiver.recv() == "waiting"
    parent.kill()
    assert receiver.poll(30)
    with pytest.raises(EOFError):  # nobody holds the other end any more
        receiver.recv()


def test_an_epoch_sees_every_image_at_most_once_and_each_epoch_in_another_order() -> None:
    images = Images(torch.zeros(10, 1, 4, 4, dtype=torch.uint8), torch.arange(10))
    loader = Batches(images, Schedule(PHASES, 3), 0)
    first, second = torch.cat([batch.labels for batch in loader.steps(0, 6, 0, False)]).view(2, 9).tolist()
    assert len(set(first)) == len(set(second)) == 9
    assert first != second


def test_the_shares_of_all_processes_make_up_the_batch() -> None:
    images = Images(torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8), torch.arange(40))
    schedule = Schedule(PHASES, 12)
    whole = Batches(images, schedule, 0)[2]
    shares = [Batches(images, schedule, 0, rank, 3)[2] for rank in range(3)]
    assert isinstance(whole, Batch)
    for part, tensor in enumerate(whole):
        assert torch.equal(torch.cat([share[part] for share in shares if isinstance(share, Batch)]), tensor)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("crop", [None, 0.5])
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, workers: int, crop: float | None) -> None:
    folder = image_folder(tmp_path, {"train": ["cat"]})
    broken = folder / "train" / "cat" / "9.png"
    broken.write_bytes((folder / "train" / "cat" / "1.png").read_bytes()[:90])
    streamed = ImageFiles(folder, np.array([b"train/cat/0.png", b"train/cat/9.png"]), torch.zeros(2), 16, 3)
    loader = Batches(streamed, Schedule(PHASES, 2, augmentation=Augmentation(crop=crop)), 0)
    with pytest.raises(ValueError, match=f"^{broken} cannot be read as an image"):
        list(loader.steps(0, 1, workers, False))


def test_a_large_jpeg_is_decoded_at_part_of_its_size_to_nearly_the_same_image(tmp_path: Path) -> None:
    wave = 128 + 100 * np.sin(np.linspace(0, 12, 640))
    image = Image.fromarray(np.broadcast_to(wave[:, None, None], (640, 960, 3)).astype(np.uint8))
    image.save(tmp_path / "a.jpg", quality=95)
    image.save(tmp_path / "b.png")
    jpeg, png = sample_folder(tmp_path, 32, limit=2, seed=0).pixels.float()
    assert torch.allclose(jpeg, png, atol=3)


def test_imagenet_is_read_as_torchvision_unpacks_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="imagenet lacks an archive of ImageNet"):
        load("imagenet", 16, seed=0, holdout=1, root=tmp_path)
    folder = image_folder(tmp_path / "imagenet", {"train": ["n01", "n02"], "val": ["n01", "n02"]})
    torch.save(({"n01": ("tench", "Tinca"), "n02": ("goldfish",)}, []), folder / "meta.bin")
    dataset = in_memory("imagenet", 16, seed=0, holdout=2, root=tmp_path)
    assert dataset.classes == ("tench", "goldfish")
    assert (len(dataset.train), len(dataset.test)) == (6, 8)
