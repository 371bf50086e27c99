"""Folders of images: which files are images, and which folders are classes and splits."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from supernet.images.decode import printable

EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("apng", "avif", "bmp", "dib", "gif", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpf", "jpg", "jpx"),
        *("mpo", "pbm", "pgm", "png", "pnm", "ppm", "qoi", "tga", "tif", "tiff", "webp"),
    )
)
SYSTEM_FOLDERS = frozenset(("@eadir", "__macosx", "lost+found", "$recycle.bin", "system volume information"))
SPLITS = frozenset(("train", "training", "test", "testing", "val", "valid", "validation"))
TEST_FOLDERS = ("test", "val")  # the first that exists is the test split
SHOWN = 5  # names in a message

Seen = dict[tuple[int, int], Path]  # folders already read, by device and inode


@dataclass(frozen=True, slots=True)
class ClassFolders:
    """The images of a folder of class folders. paths, labels: of N images; paths are relative to `root`.

    remarks: what was found and is not used.
    """

    root: Path
    classes: tuple[str, ...]
    paths: list[str]
    labels: list[int]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """A folder of images with its splits."""

    classes: tuple[str, ...]
    train: ClassFolders
    test: ClassFolders | None
    remarks: tuple[str, ...]


def read_image_folder(folder: Path) -> ImageFolder:
    """Find the images of `train/CLASS/` and, if there is one, of `test/CLASS/` or `val/CLASS/`; else of `CLASS/`.

    Raises:
        ValueError: the folder has another layout; the message names what is wrong and the folder to give instead.
    """
    folders = _subfolders(folder)
    splits = [name for name in folders if name.lower() in SPLITS]
    test_name = next((name for name in TEST_FOLDERS if name in folders), None)
    if "train" not in folders:
        if test_name is not None:
            raise ValueError(f"{folder} has {test_name}/ but no train/; images to train on belong in train/CLASS/")
        train = read_classes(folder, {})
        return ImageFolder(train.classes, train, None, train.remarks)
    if unknown := [name for name in splits if name not in ("train", *TEST_FOLDERS)]:
        raise ValueError(
            f"{folder} holds {_listed(unknown)} beside train/; the test split belongs in test/ or val/. Rename the "
            "folder, or move it away"
        )
    unused = [f"{folder / 'val'} is not used, since there is test/"] if len(splits) == 3 else []
    if others := [name for name in folders if name not in splits]:
        unused.append(f"{folder}: folders beside train/ are not used ({_listed(others)})")
    seen: Seen = {}
    train = read_classes(folder / "train", seen)
    if test_name is None:
        return ImageFolder(train.classes, train, None, (*train.remarks, *unused))
    test = read_classes(folder / test_name, seen)
    if test.classes != train.classes:
        names = ", ".join(sorted(set(test.classes) ^ set(train.classes))[:SHOWN])
        raise ValueError(f"{folder}: train/ and {test_name}/ must have the same classes; they differ in {names}")
    return ImageFolder(train.classes, train, test, (*train.remarks, *test.remarks, *unused))


def read_classes(folder: Path, seen: Seen) -> ClassFolders:
    """Find the images of a folder that holds a folder for each class.

    seen: folders that were read before; this call adds its own.

    Raises:
        ValueError: there are fewer than two classes, a folder is not a class, a class holds no images, or a symbolic
            link leads to a folder that was read.
    """
    classes = _subfolders(folder)
    _check_names(folder, classes)
    paths: list[str] = []
    labels: list[int] = []
    passed_over: Counter[str] = Counter()
    nested, empty = [], []
    for label, name in enumerate(classes):
        images = list(_walk(folder, name, seen, passed_over))
        paths += images
        labels += [label] * len(images)
        if not images:
            empty.append(name)
        elif all(path.count("/") > 1 for path in images):
            nested.append(name)
    if nested:
        _refuse_nested(folder, nested)
    if empty:
        raise ValueError(
            f"{folder}: there are no images for the classes {_listed(empty)}{_kinds(passed_over)}. Images end in "
            f"{' '.join(sorted(EXTENSIONS))}; remove the folders that are not classes"
        )
    if len(classes) == 1:
        raise ValueError(
            f"{folder} has a single class, {classes[0]}; at least two are needed. Give the folder that holds a folder "
            "for each class"
        )
    remarks = []
    if passed_over:
        remarks.append(f"{folder}: {sum(passed_over.values()):,} files are not used{_kinds(passed_over)}")
    if loose := sum(entry.name.lower().endswith(tuple(EXTENSIONS)) for entry in os.scandir(folder) if entry.is_file()):
        remarks.append(f"{folder}: {loose:,} images beside the class folders are not used")
    return ClassFolders(folder, tuple(classes), paths, labels, tuple(remarks))


def find_images(folder: Path) -> list[Path]:
    """The images in a folder and its subfolders, in the order of their names.

    Raises:
        ValueError: there are none, or a symbolic link leads to a folder that is read anyway.
    """
    passed_over: Counter[str] = Counter()
    paths = [folder / path for path in _walk(folder, "", {}, passed_over)]
    if not paths:
        raise ValueError(f"{folder} holds no images{_kinds(passed_over)}; put images into it or into folders inside it")
    return paths


def _walk(root: Path, inside: str, seen: Seen, passed_over: "Counter[str]") -> Iterator[str]:
    """The images in the folder `inside` of `root` and in its subfolders, relative to `root`. Follows symbolic links.

    Raises:
        ValueError: a folder is reached twice, so that its images would count twice or in two classes.
    """
    folder = root / inside
    status = folder.stat()
    identity = status.st_dev, status.st_ino
    if identity in seen:
        raise ValueError(
            f"{printable(folder)} and {printable(seen[identity])} are the same folder, by a symbolic link, so its "
            "images would count twice; remove the link"
        )
    seen[identity] = folder
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = f"{inside}/{entry.name}" if inside else entry.name
        if _is_folder(entry):
            if not _is_system(entry.name):
                yield from _walk(root, path, seen, passed_over)
        elif not entry.name.startswith("."):
            extension = PurePath(entry.name).suffix.lower()
            if extension in EXTENSIONS:
                yield path
            else:
                passed_over[extension or "without extension"] += 1


def _subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden folders and those that systems make."""
    return sorted(entry.name for entry in os.scandir(folder) if _is_folder(entry) and not _is_system(entry.name))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself
        return False


def _is_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def _check_names(folder: Path, classes: list[str]) -> None:
    """Refuse folders that are not class folders by their names alone."""
    if not classes:
        raise ValueError(f"{folder} holds no folders; put the images of each class into a folder named after the class")
    if splits := [name for name in classes if name.lower() in SPLITS]:
        raise ValueError(
            f"{folder} holds {_listed(splits)}, which are names of splits and not of classes. To train on one of them, "
            f"give {folder / splits[0]}; to use them as splits, name them train/ and test/; if they are classes, "
            "give them other names"
        )
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{folder}: the name of the class folder {printable(name)} is not UTF-8; rename the folder"
            ) from error


def _refuse_nested(folder: Path, nested: list[str]) -> None:
    """Refuse classes that hold only folders, as where `folder` is one level too high."""
    inside = _subfolders(folder / nested[0])
    raise ValueError(
        f"{folder}: {_listed(nested)} hold no images, only folders such as {_listed(inside)}. If these are the "
        f"classes, give {folder / nested[0]}; if not, move the images of each class into the class's own folder"
    )


def _listed(names: list[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN:,} more"


def _kinds(passed_over: "Counter[str]") -> str:
    """Which files were passed over, such as " (12 .heic, 1 .txt)"."""
    return f" ({', '.join(f'{count:,} {kind}' for kind, count in passed_over.most_common())})" if passed_over else ""
