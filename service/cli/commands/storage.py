"""`supple gc`, `supple backup` and `supple restore`."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from service.bundles.paths import check_output
from service.cli.console import err, out
from service.cli.inputs import current_database, naming_database, read_settings
from service.context import store_of
from service.errors import InvalidError
from service.storage.backup import restore_backup, sqlite_file, write_backup
from service.storage.database import Database
from service.storage.garbage import collect_garbage

storage = typer.Typer()
SHOWN = 20  # hashes listed


@storage.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed, and remove nothing.")] = False,
    hours: Annotated[
        float, typer.Option(min=0, help="Keep what was stored within this time: a running job may be about to name it.")
    ] = 24.0,
) -> None:
    """Remove files from the store that the database does not name. The service can run meanwhile."""
    settings = read_settings()
    with current_database(settings) as database:
        store = store_of(settings)
        garbage = collect_garbage(database, store, min_age=timedelta(hours=hours), dry_run=dry_run)
    if dry_run:
        for stored in garbage.removed:
            out.print(f"{stored.kind:<8} {stored.name} {stored.size:>12,} bytes, {stored.modified:%Y-%m-%d %H:%M} UTC")
    verb = "would be removed" if dry_run else "removed"
    out.print(
        f"{len(garbage.removed)} of {garbage.contents} files and bundles in {store.location} {verb}: "
        f"{garbage.size:,} bytes that nothing names and that are older than {hours:g} hours",
        highlight=False,
    )


@storage.command()
def backup(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The tar file to write, such as supple-backup.tar.")],
) -> None:
    """Write the database and the files that it names into one tar file. The service can run meanwhile.

    For services on SQLite. The file holds hashes of keys and images of bundles: keep it as safe as the service.
    """
    settings = read_settings()
    sqlite_file(settings.database)
    check_output("FILE", path)
    if path.exists():
        raise InvalidError(f"{path} exists; choose another name, or remove it first")
    with current_database(settings):
        written = write_backup(settings.database, store_of(settings), path)
    out.print(
        f"{path} written: {written.size:,} bytes, {written.bundles} bundles and {written.objects} other files",
        highlight=False,
    )
    if written.missing:
        err.print(
            f"[bold]warning:[/] the store lacks {len(written.missing)} files that the database names, so the backup "
            f"does, too: {', '.join(written.missing[:SHOWN])}"
        )


@storage.command()
def restore(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `supple backup` wrote.")],
) -> None:
    """Restore a backup where no database and no store are yet. Every file is compared with its hash first."""
    settings = read_settings()
    with naming_database(settings):
        restored = restore_backup(settings.database, store_of(settings), path)
        database = Database(settings.database)
        try:
            current = database.is_current()
        finally:
            database.close()
    out.print(
        f"restored into {sqlite_file(settings.database)} and {store_of(settings).location}: {restored.bundles} bundles "
        f"and {restored.objects} other files",
        highlight=False,
    )
    if not current:
        out.print("the backup is of another release; run `supple db upgrade` next")
