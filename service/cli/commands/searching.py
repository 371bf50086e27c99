"""Answers without a server: `supple search`, `compare` and `export`."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from service.bundles.paths import check_output
from service.cli.commands.arguments import ArchOption, BundleArgument, CalibrationOption, open_bundle
from service.cli.console import JsonOption, err, out, print_json
from service.cli.inputs import read_arch
from service.cli.options import CostOption, SearchOptions, search_options
from service.errors import InputError
from service.quantities import fraction
from supernet.files import write_atomically

searching = typer.Typer()


class EvaluateOption(StrEnum):
    """What ranks the architectures of a search."""

    predicted = "predicted"
    inherited = "inherited"


class MetricOption(StrEnum):
    """What a search can measure."""

    accuracy = "accuracy"
    top5 = "top5"
    f1_macro = "f1_macro"
    log_likelihood = "log_likelihood"


class BatchNormOption(StrEnum):
    """Whose statistics the batch norms of an exported network have: the subnet's own, or the supernet's."""

    recalibrated = "recalibrated"
    stored = "stored"


class WeightsOption(StrEnum):
    """Which weights of a subnet are exported: the supernet's, or those of a network that was trained alone."""

    inherited = "inherited"
    fine_tuned = "fine-tuned"
    from_scratch = "from-scratch"


@searching.command()
@search_options
def search(
    bundle: BundleArgument,
    *,
    options: SearchOptions,
    minimise: Annotated[
        CostOption | None, typer.Option(help="The cost to minimise at --min-accuracy, instead of maximising accuracy.")
    ] = None,
    min_accuracy: Annotated[
        str | None, typer.Option(help="The accuracy that --minimise has to reach, as in 78% or 0.78.")
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="How to search (default: exact where that proves its answer, otherwise evolution)."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Search at most so long. An answer that this cuts short depends on the machine."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal answers.")] = 0,
    evaluate: Annotated[
        EvaluateOption,
        typer.Option(help="Rank by predicted accuracy, or measure subnets on the bundle's held-out images."),
    ] = EvaluateOption.predicted,
    metric: Annotated[
        MetricOption, typer.Option(help="What --evaluate inherited measures, and the search maximises.")
    ] = MetricOption.accuracy,
    as_json: JsonOption = False,
) -> None:
    """Search a bundle under hard limits, without a server."""
    from evolution.refusal import Refused
    from service.bundles.search import search_bundle
    from service.cli.display import Bar, show_answer, show_refused
    from service.searches.answer import refuse

    opened = open_bundle(bundle)
    genes = [gene.name for gene in opened.space.block_genes]
    try:
        with Bar(err) as bar:
            answer = search_bundle(
                opened,
                **options,
                minimise=None if minimise is None else str(minimise),
                min_accuracy=None if min_accuracy is None else fraction(min_accuracy),
                seconds=seconds,
                seed=seed,
                strategy=strategy,
                evaluate=evaluate.value,
                metric=metric.value,
                progress=partial(bar, "measure subnets"),
            )
    except Refused as error:
        refused = refuse(error)
        if as_json:
            print_json(refused.problem_document())
        else:
            show_refused(refused.problem_document(), genes, err)
        raise refused from error
    print_json(answer) if as_json else show_answer(answer, genes, out)


@searching.command()
@search_options
def compare(
    bundle: BundleArgument,
    *,
    options: SearchOptions,
    seeds: Annotated[int, typer.Option(min=1, help="How many searches per strategy.")] = 10,
    local_search: Annotated[
        bool,
        typer.Option(
            "--local-search/--no-local-search", help="End each search with the local search, as `supple search` does."
        ),
    ] = True,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="SVG file for a plot of best accuracy against evaluations.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare all search strategies on a bundle at equal evaluations, against random search."""
    from service.bundles.compare import compare_bundle
    from service.cli.display import Bar, show_compared
    from service.cli.plot import comparison_svg

    if output is not None:
        check_output("--output", output)
    with Bar(err) as bar:
        compared = compare_bundle(
            open_bundle(bundle),
            **options,
            seeds=seeds,
            local_search=local_search,
            progress=lambda run, done, total: bar("searches", done, total, run.strategy),
        )
    if output is not None:
        write_atomically(output, comparison_svg(compared).encode())
    print_json(compared) if as_json else show_compared(compared, out)


@searching.command()
def export(
    bundle: BundleArgument,
    arch: ArchOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="ONNX file to write.")],
    batch_norm: Annotated[
        BatchNormOption, typer.Option(help="Statistics: the subnet's own, recalibrated, or the supernet's, as stored.")
    ] = BatchNormOption.recalibrated,
    weights: Annotated[
        WeightsOption, typer.Option(help="The supernet's weights, or what `supple finetune` made of them.")
    ] = WeightsOption.inherited,
    calibration: CalibrationOption = None,
) -> None:
    """Extract a subnet, recalibrate it and write it as ONNX, after a check that onnxruntime agrees with torch.

    A network that `supple finetune` trained is written as it is: its batch norms were trained with it.
    """
    from service.bundles.export import export_stand_alone, export_subnet_of
    from service.bundles.import_ofa import calibration_images
    from supernet.bundle import Training

    check_output("--output", output)
    opened = open_bundle(bundle)
    subnet = read_arch(arch, opened.space)
    if calibration is not None and batch_norm is BatchNormOption.stored:
        raise InputError(f"--calibration is {calibration}, but --batch-norm stored recalibrates nothing; omit one")
    if weights is not WeightsOption.inherited:
        if calibration is not None or batch_norm is BatchNormOption.stored:
            raise InputError(f"--weights is {weights}, which needs no --calibration and no --batch-norm; omit them")
        training: Training = "fine-tuned" if weights is WeightsOption.fine_tuned else "from-scratch"
        exported = export_stand_alone(opened, subnet, training, output)
    else:
        images = None if calibration is None else calibration_images(calibration, opened.space)
        exported = export_subnet_of(opened, subnet, output, batch_norm=batch_norm.value, calibration=images)
    out.print(f"{output} written: {exported['bytes']:,} bytes, SHA-256 {exported['sha256']}")
    out.print(f"largest difference between onnxruntime and torch: {exported['difference']:.2g}")
