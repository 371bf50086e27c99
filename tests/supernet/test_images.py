"""Images as people have them: folders one level off, photographs lying down, broken files, rare classes, links."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from supernet.data import Dataset, ImageFiles, check_images, load, sample_folder
from supernet.images import check, decode
from supernet.images.split import FileSplit, hold_out
from supernet.training import batches
from supernet.training.augmentation import Augmentation
from supernet.training.batches import Batches
from supernet.training.schedule import Phase, Schedule

RNG = np.random.default_rng(0)


def fill(root: Path, counts: dict[str, int], *, grey: bool = False, suffix: str = ".png") -> Path:
    """Small noisy images: `counts` says how many a folder gets."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            shape = (12, 16) if grey else (12, 16, 3)
            Image.fromarray(RNG.integers(0, 256, shape, np.uint8)).save(root / folder / f"{number}{suffix}")
    return root


def loaded(folder: Path, **options: Any) -> Dataset:
    settings: dict[str, Any] = {"seed": 0, "holdout": 2, "root": folder.parent / "data"}
    return load(str(folder), 16, **settings | options)


# Layouts of folders.


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (["dataset/cat", "dataset/dog"], r"dataset hold no images, only folders such as cat, dog.*give .*/img/dataset"),
        (["dataset/train/cat", "dataset/test/cat"], r"dataset hold no images.*give .*/img/dataset"),
        (["cat/indoors", "dog/outdoors"], "cat, dog hold no images.*move the images of each class"),
        (["Training/cat", "Testing/cat"], "Testing, Training, which are names of splits.*name them train/ and test/"),
        (["VALIDATION", "cat"], "VALIDATION, which are names of splits"),
        (["train/cat", "train/dog", "valid/cat"], "valid beside train/; the test split belongs in test/ or val/"),
        (["train/Train/cat", "train/dog"], "Train, which are names of splits"),
        (["cat"], "a single class, cat; at least two are needed"),
        (["train/cat"], "a single class, cat"),
        (["test/cat", "test/dog"], "has test/ but no train/"),
    ],
)
def test_a_folder_one_level_off_is_refused_with_the_folder_to_give(
    tmp_path: Path, layout: list[str], message: str
) -> None:
    folder = fill(tmp_path / "img", dict.fromkeys(layout, 3))
    with pytest.raises(ValueError, match=message):
        loaded(folder)


def test_images_in_folders_of_a_class_belong_to_the_class_if_it_has_images_of_its_own(tmp_path: Path) -> None:
    dataset = loaded(fill(tmp_path / "img", {"cat": 2, "cat/indoors": 2, "dog": 3}))
    assert {name: count["train"] + count["holdout"] for name, count in dataset.class_counts().items()} == {
        "cat": 4,
        "dog": 3,
    }


def test_folders_that_systems_make_and_hidden_ones_are_no_classes(tmp_path: Path) -> None:
    system = [".git", "@eaDir", "__MACOSX", ".ipynb_checkpoints", "cat/.thumbnails", "cat/@eaDir"]
    folder = fill(tmp_path / "img", dict.fromkeys((*system, "cat", "dog"), 3))
    (folder / "cat" / "._0.png").write_bytes(b"what macOS leaves on other disks")
    dataset = loaded(folder)
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.train) + len(dataset.holdout) == 6
    assert len(sample_folder(folder, 16, limit=100, seed=0)) == 6


def test_links_are_followed_alike_in_training_and_calibration(tmp_path: Path) -> None:
    elsewhere = fill(tmp_path / "disk", {"dogs": 3})
    folder = fill(tmp_path / "img", {"cat": 3})
    (folder / "dog").symlink_to(elsewhere / "dogs")
    dataset = loaded(folder)
    assert len(dataset.train) + len(dataset.holdout) == len(sample_folder(folder, 16, limit=100, seed=0)) == 6


@pytest.mark.parametrize("target", ["..", "../dog", "."])
def test_a_link_that_would_count_images_twice_is_refused(tmp_path: Path, target: str) -> None:
    folder = fill(tmp_path / "img", {"cat": 3, "dog": 3})
    (folder / "cat" / "more").symlink_to(target)
    for read in (lambda: loaded(folder), lambda: sample_folder(folder, 16, limit=9, seed=0)):
        with pytest.raises(ValueError, match="are the same folder, by a symbolic link"):
            read()


def test_a_test_split_that_is_the_training_split_is_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "img", {"train/cat": 3, "train/dog": 3, "annotations": 0})
    assert any("folders beside train/ are not used (annotations)" in remark for remark in loaded(folder).remarks)
    (folder / "val").symlink_to("train")
    with pytest.raises(ValueError, match=r"val/cat and .*train/cat are the same folder"):
        loaded(folder)


def test_many_kinds_of_files_are_read_and_the_others_are_counted(tmp_path: Path) -> None:
    folder = fill(tmp_path / "img", {"dog": 3})
    for suffix in (".gif", ".jfif", ".jpe", ".jp2", ".avif", ".JPG", ".webp"):
        fill(folder, {"cat": 1}, suffix=suffix)
    for name in ("cat/1.heic", "cat/2.HEIC", "dog/notes.txt"):
        (folder / name).write_bytes(b"")
    fill(folder, {".": 2})
    dataset = loaded(folder)
    assert sum(dataset.class_counts()["cat"].values()) == 7
    assert any(r"3 files are not used (2 .heic, 1 .txt)" in remark for remark in dataset.remarks)
    assert any("2 images beside the class folders are not used" in remark for remark in dataset.remarks)
    (folder / "owl").mkdir()
    with pytest.raises(ValueError, match="no images for the classes owl"):
        loaded(folder)


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_a_class_whose_name_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    folder = fill(tmp_path / "img", {"dog": 3})
    fill(Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9")), {"": 3})
    with pytest.raises(ValueError, match=r"the class folder caf\\xe9 is not UTF-8; rename the folder"):
        loaded(folder)


def test_a_folder_of_grey_images_has_one_channel(tmp_path: Path) -> None:
    folder = fill(tmp_path / "img", {"cat": 3, "dog": 3}, grey=True)
    assert loaded(folder).train.channels == 1
    assert loaded(folder, channels=3).train.channels == 3
    fill(folder, {"dog": 1})
    assert loaded(folder).train.channels == 3


# Pixels.


def pixels_of(path: Path, channels: int = 1, resolution: int = 16) -> torch.Tensor:
    return decode.decode([path], resolution, channels)[0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_photographs_are_turned_upright_wherever_they_are_read(tmp_path: Path, orientation: int, suffix: str) -> None:
    ramp = np.add.outer(np.linspace(0, 200, 48), np.linspace(0, 50, 96)).astype(np.uint8)
    upright = Image.fromarray(ramp)
    stored = upright
    if orientation > 1:
        inverse = {Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90}
        inverse |= {there: back for back, there in inverse.items()}
        turn = decode.UPRIGHT[orientation]
        stored = upright.transpose(inverse.get(turn, turn))
    exif = Image.Exif()
    exif[decode.ORIENTATION] = orientation
    path = tmp_path / f"a{suffix}"
    stored.convert("RGB").save(path, exif=exif, lossless=True)
    plain = tmp_path / "plain.png"
    upright.save(plain)
    assert torch.allclose(pixels_of(path).float(), pixels_of(plain).float(), atol=3)
    crop = Augmentation(crop=0.2)
    drawn = torch.rand(1, 14, generator=torch.Generator().manual_seed(0))
    cropped = [decode.decode([p], 16, 1, boxes=lambda i, aspect: crop.boxes(drawn, aspect)[0]) for p in (path, plain)]
    assert torch.allclose(cropped[0].float(), cropped[1].float(), atol=3)
    calibration = sample_folder(tmp_path, 16, limit=2, seed=0).pixels.float()
    assert torch.allclose(calibration[0], calibration[1], atol=3)


def test_exif_data_that_cannot_be_read_leave_the_photograph_as_it_is(tmp_path: Path) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (20, 30), np.uint8))
    image.save(tmp_path / "a.jpg", exif=b"Exif\0\0no header of TIFF")
    image.save(tmp_path / "b.jpg")
    assert torch.equal(pixels_of(tmp_path / "a.jpg"), pixels_of(tmp_path / "b.jpg"))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2", ".pgm"])
def test_grey_images_of_16_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    ramp = np.broadcast_to(np.linspace(0, 65535, 16), (16, 16)).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / f"a{suffix}")
    assert torch.allclose(pixels_of(tmp_path / f"a{suffix}")[0, 0].float(), torch.linspace(0, 255, 16), atol=1.5)
    assert torch.equal(pixels_of(tmp_path / f"a{suffix}", 3)[1], pixels_of(tmp_path / f"a{suffix}")[0])


def test_a_folder_that_uses_few_of_16_bits_is_refused_as_nearly_black(tmp_path: Path) -> None:
    folder = fill(tmp_path / "img", {"cat": 3, "dog": 3}, grey=True)
    for path in folder.rglob("*.png"):
        Image.fromarray(RNG.integers(0, 4096, (12, 16), np.uint16)).save(path)
    with pytest.raises(ValueError, match="none of the 6 images of 16 bits has a value above 4,"):
        loaded(folder)
    Image.fromarray(RNG.integers(0, 65536, (12, 16), np.uint16)).save(folder / "cat" / "0.png")
    assert loaded(folder).train.channels == 1


def test_sixteen_bits_whose_zero_is_white_are_inverted(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 65535, 16), (16, 16)).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "a.tif", tiffinfo={decode.PHOTOMETRIC: decode.WHITE_IS_ZERO})
    assert torch.allclose(pixels_of(tmp_path / "a.tif")[0, 0].float(), torch.linspace(255, 0, 16), atol=1.5)


@pytest.mark.parametrize(("kind", "named"), [(np.int32, "integers of 32 bits"), (np.float32, "floating-point numbers")])
def test_pixels_without_a_known_range_are_refused_by_name(tmp_path: Path, kind: type, named: str) -> None:
    folder = fill(tmp_path / "img", {"cat": 3, "dog": 3})
    Image.fromarray(np.arange(256).reshape(16, 16).astype(kind)).save(folder / "cat" / "scan.tif")
    with pytest.raises(ValueError, match=f"cat/scan.tif: its pixels are {named}"):
        loaded(folder)


def test_a_long_thin_picture_is_cut_before_it_is_enlarged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RNG.integers(0, 256, (1, 20_000), np.uint8)).save(tmp_path / "a.png")
    sizes: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def recorded(image: Image.Image, size: tuple[int, int], *rest: Any) -> Image.Image:
        sizes.append(size)
        return resize(image, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    assert pixels_of(tmp_path / "a.png", resolution=224).shape == (1, 224, 224)
    assert sizes == [(224, 224)]


def test_large_images_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "LARGE", 100)
    paths = [fill(tmp_path, {name: 1}) / name / "0.png" for name in "abcdef"]
    at_once, most = 0, 0
    convert = Image.Image.convert

    def counting(image: Image.Image, *rest: Any) -> Image.Image:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        result = convert(image, *rest)
        at_once -= 1
        return result

    monkeypatch.setattr(Image.Image, "convert", counting)
    decode.decode(paths, 8, 3)
    assert most == 1


# Broken files.


def break_files(folder: Path, *names: str) -> None:
    for name in names:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])


def test_every_broken_file_is_named_before_training(tmp_path: Path) -> None:
    folder = fill(tmp_path / "img", {"train/cat": 4, "train/dog": 4, "test/cat": 1, "test/dog": 2})
    break_files(folder, "train/cat/1.png", "test/dog/0.png")
    (folder / "train/dog/3.png").unlink()
    (folder / "train/dog/3.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "train/dog/pipe.png")
    (folder / "train/dog/text.jpg").write_text("no image")
    with pytest.raises(ValueError, match="5 of 13 images cannot be read; replace or remove them") as refused:
        loaded(folder)
    for name in ("train/cat/1.png", "train/dog/3.png", "train/dog/pipe.png", "train/dog/text.jpg", "test/dog/0.png"):
        assert f"{folder / name}: " in str(refused.value)
    dataset = loaded(folder, on_bad_image="skip")
    assert dataset.class_counts()["dog"]["train"] + dataset.class_counts()["dog"]["holdout"] == 3
    assert sum("left out, since it cannot be read" in remark for remark in dataset.remarks) == 5
    break_files(folder, *(f"train/dog/{number}.png" for number in range(3)))
    with pytest.raises(ValueError, match="no image can be read of the classes dog"):
        loaded(folder, on_bad_image="skip")


def test_files_are_decoded_once_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "img", {"cat": 3, "dog": 3})
    break_files(folder, "cat/0.png")
    decoded: list[str] = []

    def recorded(path: Path) -> decode.Facts:
        decoded.append(path.name)
        return decode.examine(path)

    monkeypatch.setattr(check, "examine", recorded)
    data = tmp_path / "data"
    assert list(check_images(str(folder), data)) == [(6, 6)]
    assert len(decoded) == 6
    assert list(check_images(str(folder), data)) == [(6, 6)]
    assert len(decoded) == 6
    with pytest.raises(ValueError, match=r"1 of 6 images.*on_bad_image: skip"):
        loaded(folder)
    fill(folder, {"cat": 1})
    os.utime(folder / "dog" / "1.png", (1, 1))
    assert len(loaded(folder).train) == 4
    assert decoded[6:] == ["0.png", "1.png"]
    next((data / "checked-images").iterdir()).write_text("{")
    assert len(loaded(folder).train) == 4
    assert list(check_images("digits", data)) == []


def test_a_full_shared_memory_is_named_with_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {"cat": 4})

    def full(tensor: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)  # in the workers, which are forked
    monkeypatch.setattr(batches, "SHARED_MEMORY", tmp_path)
    images = ImageFiles(tmp_path, np.array([b"cat/0.png", b"cat/1.png"]), torch.zeros(2), 16, 3)
    loader = Batches(images, Schedule((Phase("one", 1, 0.1),), 2), 0)
    with pytest.raises(ValueError, match=r"does not fit into shared memory.*`dataset: \{workers: 0\}`.*shm_size"):
        list(loader.steps(0, 1, 1, False))
    assert len(list(loader.steps(0, 1, 0, False))) == 1


def test_a_worker_that_is_killed_ends_training_with_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Batches, "_images", killed)
    images = ImageFiles(tmp_path, np.array([b"0.png", b"1.png"]), torch.zeros(2), 16, 3)
    loader = Batches(images, Schedule((Phase("one", 1, 0.1),), 2), 0)
    with pytest.raises(ValueError, match=r"ended from outside, as happens when memory runs out.*workers: 0"):
        list(loader.steps(0, 1, 1, False))


# Splits.


def test_every_class_is_held_out_in_proportion_and_keeps_a_training_image() -> None:
    labels = np.repeat([0, 1, 2, 3], [60, 30, 9, 1])
    order = np.random.default_rng(0).permutation(100)
    train, holdout = hold_out(labels, 20, order)
    assert np.bincount(labels[holdout], minlength=4).tolist() == [12, 6, 2, 0]
    assert sorted([*train, *holdout]) == list(range(100))
    assert [*holdout] == [i for i in order if i in set(holdout)]
    for count in (1, 50, 96):
        train, holdout = hold_out(labels, count, order)
        assert len(holdout) == count
        assert np.bincount(labels[train], minlength=4).min() >= 1
    with pytest.raises(ValueError, match=r"each of the 4 classes keeps at least one image for training.*1 to 96"):
        hold_out(labels, 97, order)


def test_rare_classes_are_named(tmp_path: Path) -> None:
    dataset = loaded(fill(tmp_path / "img", {"cat": 30, "owl": 1}), holdout=3)
    assert dataset.class_counts() == {"cat": {"train": 27, "holdout": 3}, "owl": {"train": 1, "holdout": 0}}
    assert dataset.rare_classes() == ["owl"]


def resumed(folder: Path, start: Dataset) -> Dataset:
    assert start.split is not None
    return loaded(folder, run_split=FileSplit.from_bytes(start.split.to_bytes()))


def test_a_run_that_is_resumed_may_lose_images_and_says_so(tmp_path: Path) -> None:
    folder = fill(tmp_path / "img", {"train/cat": 6, "train/dog": 6, "test/cat": 2, "test/dog": 2})
    start = loaded(folder, cache_bytes=0)
    assert start.split is not None
    before = start.train[:]
    again = resumed(folder, start)
    assert again.hash == start.hash
    assert again.lost_files == ()
    lost_training = os.fsdecode(start.split.train.paths[3])
    lost_holdout = os.fsdecode(start.split.holdout.paths[0])
    for name in (f"train/{lost_training}", f"train/{lost_holdout}", "test/dog/1.png"):
        (folder / name).unlink()
    later = resumed(folder, start)
    assert later.hash == start.hash
    assert set(later.lost_files) == {lost_training, lost_holdout, "dog/1.png"}
    assert torch.equal(later.train.labels, start.train.labels)
    assert len(later.holdout) == len(start.holdout) - 1
    assert len(later.test or ()) == 3
    kept = [position for position in range(len(start.train)) if position != 3]
    after = later.train[:]
    assert torch.equal(before.pixels[kept], after.pixels[kept])
    assert not torch.equal(before.pixels[3], after.pixels[3])


def test_a_run_is_not_resumed_on_new_or_changed_images_or_without_a_class(tmp_path: Path) -> None:
    folder = fill(tmp_path / "img", {"cat": 4, "dog": 4})
    start = loaded(folder)
    fill(folder, {"dog": 5})
    with pytest.raises(ValueError, match=r"the run was started on other images: dog/4\.png are new"):
        resumed(folder, start)
    (folder / "dog" / "4.png").unlink()
    start = loaded(folder)
    Image.new("RGB", (90, 90)).save(folder / "cat" / "2.png")
    with pytest.raises(ValueError, match=r"cat/2\.png are of another size"):
        resumed(folder, start)
    fill(folder, {"cat": 4, "owl": 2})
    start = loaded(folder, holdout=1)
    (folder / "cat").rename(tmp_path / "cat")
    with pytest.raises(ValueError, match="training images of the class cat are lost"):
        resumed(folder, start)
