"""Registering a bundle as a supernet of the service, from the command line."""

from pathlib import Path

from service.cli.console import out
from service.cli.inputs import current_database, read_settings
from service.errors import InputError


def register_bundle(bundle: Path, images: Path | None) -> None:
    """Copy a bundle into the store, register it, and say so. images: the folder of its training images."""
    from service.context import store_of
    from service.supernets.register import register_supernet

    if images is not None and not images.is_dir():
        raise InputError(f"`images` is {images}, which is no folder; name the folder of the training images", "images")
    settings = read_settings()
    with current_database(settings) as database, database.writing() as session:
        supernet = register_supernet(session, store_of(settings), bundle, images)
        out.print(f"supernet {supernet.id} ({supernet.name}) registered")
        if supernet.images is not None:
            out.print(f"its candidates can be fine-tuned on the images in {supernet.images}", highlight=False)
