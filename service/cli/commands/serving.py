"""The service: `supple demo`, `register`, `serve`, `worker`, `doctor` and `db upgrade`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from service import logs
from service.cli.commands.arguments import BundleArgument, ChildOption
from service.cli.console import JsonOption, out, print_json
from service.cli.inputs import check_database, naming_database, read_settings
from service.cli.register import register_bundle
from service.settings import Settings

serving = typer.Typer()
db = typer.Typer(help="The database.", no_args_is_help=True)
serving.add_typer(db, name="db")


def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop at the end instead of serving on.")] = False,
    directory: Annotated[Path, typer.Option(help="Folder for everything that the demo writes.")] = Path(
        "supple-data/demo"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the service; 0 takes a free one.")] = 8000,
) -> None:
    """Run everything on this machine: train on digits, measure this CPU, search, verify, download ONNX, serve."""
    from service.cli.demo import run_demo

    run_demo(directory, port, once=once, out=out)


@serving.command()
def register(
    bundle: BundleArgument,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of its training images, which workers can see; needed to fine-tune in the service."),
    ] = None,
) -> None:
    """Copy a bundle into the store and register it as a supernet of the service."""
    register_bundle(bundle, images)


@serving.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on (default: SUPPLE_HOST, else 127.0.0.1).")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on (default: SUPPLE_PORT, else 8000).")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, max=256, help="How many workers to run in child processes.")] = 1,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="The same as --workers 0.")] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Serve without API keys on any address.")] = False,
    child: ChildOption = False,
) -> None:
    """Serve the HTTP API and the pages, with workers in child processes. One that dies is started again."""
    from service.cli.serve import serve as run_server
    from service.processes import end_with_parent

    if child:
        end_with_parent()
    settings = _begin_service(host=host, port=port, insecure=insecure or None)
    run_server(settings, workers=0 if no_worker else workers)


@serving.command()
def worker(
    worker_id: Annotated[
        str | None,
        typer.Option("--id", help="Name of this worker, unique among running workers (default: SUPPLE_WORKER_ID)."),
    ] = None,
    child: ChildOption = False,
) -> None:
    """Run one more worker, which does long searches, verifications and exports."""
    from service.processes import end_with_parent
    from service.worker import run_worker

    if child:
        end_with_parent()
    run_worker(_begin_service(worker_id=worker_id))


def _begin_service(**options: Any) -> Settings:
    """The settings of a process of the service, with logs and traces set up and the database checked."""
    from service.telemetry import set_up_telemetry

    settings = read_settings(**options)
    logs.set_up_logs(settings.log_format, settings.log_level)
    set_up_telemetry()
    check_database(settings)
    return settings


@db.command("upgrade")
def upgrade() -> None:
    """Create the database, or bring it to this release's version."""
    from service.upgrade import upgrade as run_upgrade

    settings = read_settings()
    settings.data_directory.mkdir(parents=True, exist_ok=True)
    with naming_database(settings):
        run_upgrade(settings.database)
    out.print("the database is at this release's version")


@serving.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check this machine, the settings, the database, the store, workers and the service. Exit code 1: one fails."""
    from service.cli.display import show_check
    from service.cli.doctor import examine

    checks = []
    for check in examine():
        checks.append(check)
        if not as_json:
            show_check(check, out)
    if as_json:
        print_json([asdict(check) for check in checks])
    if any(check.status == "failure" for check in checks):
        raise typer.Exit(1)
