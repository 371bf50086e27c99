"""What the command line prints: progress bars, architectures, answers."""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import groupby
from operator import itemgetter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from evolution.predictors.accuracy import ranking_warning
from evolution.predictors.uncertainty import DEVIATIONS
from evolution.refusal import all_digits
from service.costs import cost_kind, cost_tables, counted_costs, device_costs
from service.quantities import round_amount, rounded

if TYPE_CHECKING:
    from evolution.predictors.refit import Refit
    from service.bundles.dry_run import Forecast
    from service.bundles.train import Step
    from service.cli.doctor import Check
    from supernet.bundle import Bundle
    from supernet.data import Dataset

SHOWN_CLASSES = 40  # in the table of a dataset
LINE_SECONDS = 30.0  # between two lines in a log file


class Bar:
    """A progress bar for each stage, with the time left and a remark.

    If the console is not a terminal, such as a log file, it prints a line every `LINE_SECONDS` instead. Without any
    stage it prints nothing.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_line = 0.0  # seconds of the monotonic clock
        self._progress = Progress(
            TextColumn("{task.description:<15}", table_column=Column(min_width=15)),
            BarColumn(bar_width=5),
            TaskProgressColumn(),
            TimeElapsedColumn(table_column=Column(min_width=7)),
            TextColumn("left", table_column=Column(min_width=4)),
            TimeRemainingColumn(table_column=Column(min_width=7)),
            TextColumn("{task.fields[remark]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            console=console,
            expand=True,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tasks:
            self._progress.stop()

    def __call__(self, stage: str, done: int, total: int, remark: str = "") -> None:
        """Show the progress of a stage: `done` of `total`."""
        if stage not in self._tasks:
            self._progress.start()
            self._tasks[stage] = self._progress.add_task(stage, total=total, remark="")
        task = self._tasks[stage]
        self._progress.update(task, completed=done, remark=remark)
        now = time.monotonic()
        if not self._console.is_terminal and now >= self._next_line:
            self._next_line = now + LINE_SECONDS
            left = next(row.time_remaining for row in self._progress.tasks if row.id == task)
            until = "" if left is None else f"{timedelta(seconds=round(left))} left"
            line = ", ".join(filter(None, (f"{stage} {done}/{total}", until, remark)))
            self._console.print(line, markup=False, highlight=False)


def watch(steps: "Iterable[Step]", console: Console) -> None:
    """Run all steps and show a progress bar for each stage."""
    with Bar(console) as bar:
        for step in steps:
            bar(step.stage, step.done, step.total, step.detail)


def architecture_lines(arch: Mapping[str, Any], genes: Sequence[str]) -> list[str]:
    """An architecture for people: the resolution, then one line per stage, such as `stage 1     [3x3 x4]   [5x5 x2]`.

    arch: in JSON form. genes: the names of a block's values.
    """
    short = {"kernel_size": "{0}x{0}", "expand_ratio": "x{0}"}
    form = " ".join(short.get(gene, gene + " {0}") for gene in genes).replace("{0}", "{}")
    doubled = [value for gene in genes for value in ([gene, gene] if gene == "kernel_size" else [gene])]
    lines = [f"resolution  {arch['resolution']} x {arch['resolution']}"]
    for number, stage in enumerate(arch["stages"], 1):
        blocks = [dict(zip(genes, block, strict=True)) for block in stage]
        shown = (form.format(*(block[gene] for gene in doubled)) for block in blocks)
        lines.append(f"stage {number}     " + "   ".join(f"\\[{block}]" for block in shown))
    extra = [f"{name} {value}" for name, value in arch.items() if name not in ("resolution", "stages")]
    return [*lines, "other genes " + "   ".join(extra)] if extra else lines


def show_costs(described: Mapping[str, Any], genes: Sequence[str], console: Console) -> None:
    """The answer of `supple describe`."""
    console.print("\n".join(architecture_lines(described["arch"], genes)))
    for label, _, text in counted_lines(described):
        console.print(f"{label:<22} {text}")


def counted_lines(costs: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """For each counted cost in `costs`: its label, its name, and its value with the unit."""
    return [
        (kind.label, kind.name, f"{costs[kind.name]:,} {kind.unit}") for kind in counted_costs() if kind.name in costs
    ]


def show_dataset(dataset: "Dataset", console: Console) -> None:
    """The images of each class in each split, rare classes, and what was found and is not used."""
    counts = dataset.class_counts()
    splits = list(next(iter(counts.values())))
    totals = {split: sum(count[split] for count in counts.values()) for split in splits}
    table = Table("class", *splits, title=f"{len(counts):,} classes of {dataset.name}")
    for name, count in list(counts.items())[:SHOWN_CLASSES]:
        table.add_row(escape(name), *(f"{count[split]:,}" for split in splits))
    if len(counts) > SHOWN_CLASSES:
        table.add_row(f"and {len(counts) - SHOWN_CLASSES:,} more", *("" for _ in splits))
    table.add_row("all", *(f"{totals[split]:,}" for split in splits), style="bold")
    console.print(table)
    if rare := dataset.rare_classes():
        lines = ", ".join(f"{name} ({counts[name]['train']} to train on)" for name in rare)
        console.print(f"rare classes: {escape(lines)}", highlight=False)
    for remark in dataset.remarks:
        console.print(escape(remark), highlight=False)
    if dataset.lost_files:
        lost = escape(", ".join(dataset.lost_files))
        console.print(
            f"[yellow]{len(dataset.lost_files):,} images are lost since the run was started[/]; others of their "
            f"classes take their places in training: {lost}",
            highlight=False,
        )


def show_conversion(bundle: "Bundle", console: Console) -> None:
    """The answer of `supple convert`: the space in words, and the range of every counted cost."""
    space, report = bundle.space, bundle.report["conversion"]
    lines = [f"{space.name}: the largest subnet is the network (logits differ by {report['difference']:.2g} at most)"]
    lines.append(f"resolutions  {_choices(space.resolutions)}")
    for stage, depths in enumerate(space.depths):
        genes = [space.genes[space.gene_of_block(stage, block)] for block in range(depths[-1])]
        widths = (
            f"{_blocks([number for number, _ in group])}: {_choices(choices)}"
            for choices, group in groupby(enumerate((gene.choices for gene in genes), 1), key=itemgetter(1))
        )
        lines.append(
            f"stage {stage + 1}      {' or '.join(map(str, depths))} blocks; kept width of {'; '.join(widths)}"
        )
    lines += [
        f"kept width of {gene.name.removesuffix('.width')}: {_choices(gene.choices)}" for gene in space.extra_genes
    ]
    lines.append(f"{space.num_architectures:,} subnets")
    tables = cost_tables(space, bundle.classes)
    for kind in counted_costs():
        cost = tables.cost(kind.name)
        lines.append(f"{kind.label:<12} {cost.floors.min():,.0f} to {cost.ceiling:,.0f} {kind.unit}")
    if report["left_whole"]:
        reasons = sorted((reason, path) for path, reason in report["left_whole"].items())
        lines += [
            f"left whole, {reason}: {', '.join(path for _, path in group)}"
            for reason, group in groupby(reasons, key=itemgetter(0))
        ]
    normalization = bundle.normalization
    lines.append(f"images: mean {_choices(normalization.mean)}, standard deviation {_choices(normalization.std)}")
    console.print("\n".join([*lines, *report["remarks"]]), markup=False, highlight=False)


def _blocks(numbers: Sequence[int]) -> str:
    """Consecutive blocks by their numbers, from 1."""
    return f"block {numbers[0]}" if len(numbers) == 1 else f"blocks {numbers[0]} to {numbers[-1]}"


def _choices(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def show_forecast(forecast: "Forecast", console: Console) -> None:
    """What `supple train --dry-run` found: phases, steps, memory, and an estimate of the time."""
    if forecast.start is not None:
        console.print(_started_from(forecast.start), highlight=False)
    table = Table("phase", "epochs", "steps", "subnets a step", "s/step", "time", "peak memory", title="the run")
    for phase in forecast.phases:
        counts = (f"{count:,}" for count in (phase.epochs, phase.steps, phase.subnets))
        memory = f"{phase.peak_memory_bytes / 2**20:,.0f} MiB"
        table.add_row(escape(phase.name), *counts, f"{phase.seconds_per_step:.3g}", _duration(phase.seconds), memory)
    measuring = forecast.subnets * forecast.seconds_per_subnet
    table.add_row(f"measure {forecast.subnets:,} subnets", "", "", "", "", _duration(measuring), "")
    console.print(table)
    console.print(
        f"about {_duration(forecast.seconds)} in all, estimated from a few steps of each phase; nothing was trained",
        highlight=False,
    )


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _started_from(start: Mapping[str, Any]) -> str:
    """The bundle whose weights training started from, and which tensors are new."""
    new = f"new: {', '.join(start['new'])}" if start["new"] else "nothing is new"
    return f"started from {escape(start['name'])} ({start['bundle'][:16]}): {len(start['taken'])} tensors taken, {new}"


def warn_of_measurements(measured: Mapping[str, Any], out: Console) -> None:
    """Say what makes the result of a probe less useful than it could be."""
    from service.devices.probe import warnings  # loads numpy, which a command that prints may not need

    for warning in warnings(measured):
        out.print(f"[yellow]warning:[/] {warning}", highlight=False)


def show_corners(report: Mapping[str, Any], console: Console) -> None:
    """Inherited accuracies of the largest and the smallest subnet, and the predictor's card."""
    table = Table("subnet", "holdout", "holdout, perturbed", "test", title="inherited accuracy after recalibration")
    for name, corner in report["corners"].items():
        scores = (corner[split] for split in ("holdout", "views", "test"))
        table.add_row(name, *("none" if score is None else f"{score['accuracy']:.2%}" for score in scores))
    console.print(table)
    if start := report.get("init"):
        console.print(_started_from(start), highlight=False)
    phases = Table(
        "phase", "epochs", "loss", "images/s", "peak memory", "largest", "smallest", title="at the end of each phase"
    )
    for phase in report.get("phases", ()):
        shown = (phase["epochs"], phase["loss"], f"{phase['images_per_second']:,.0f}")
        memory = f"{phase['peak_memory_bytes'] / 2**20:,.0f} MiB"
        corners = (f"{phase['corners'][name]:.2%}" for name in ("largest", "smallest"))
        phases.add_row(phase["phase"], *map(str, shown), memory, *corners)
    console.print(phases)
    show_predictor(report["predictor"], console)


def show_stand_alone(card: Mapping[str, Any], console: Console) -> None:
    """The answer of `supple finetune`: accuracies before and after."""
    table = Table("weights", "held-out images", "test", title=f"architecture {card['id']}")
    for name in ("inherited", card["training"]):
        scores = (card[name][split] for split in ("views", "test"))
        table.add_row(name, *("none" if score is None else f"{score['accuracy']:.2%}" for score in scores))
    console.print(table)
    taught = f", distillation {card['distillation']:g}" if card["distillation"] else ""
    console.print(
        f"{card['epochs']} epochs on {card['images']['train']:,} images at learning rate {card['learning_rate']:.3g}"
        f"{taught}, seed {card['seed']}",
        highlight=False,
    )


def show_predictor(card: Mapping[str, Any], console: Console) -> None:
    """The predictor's error on pairs that it was not fitted on, the kinds compared, and a warning if it ranks badly.

    RMSE is of accuracies. Kendall's tau is of log-likelihoods, by which candidates are ranked.
    """
    near = card.get("near_front")  # cards of earlier versions have none
    kind = "" if card["kendall_tau"] is None else "; tau is of log-likelihoods"
    rounds = f", {card['rounds']} rounds near the front" if card.get("rounds") else ""
    front = f"; on the {near['pairs']} near the front {near['rmse']:.2%}, {tau(near)}" if near else ""
    console.print(
        f"accuracy predictor: {card['pairs']} pairs{rounds}, RMSE {card['rmse']:.2%}, Kendall tau {tau(card)}{front} "
        f"({card['validation']}{kind})"
    )
    if interval := card.get("interval"):
        held = f"{interval['coverage']:.0%} of the pairs left out"
        console.print(f"its {interval['level']:.0%} intervals hold {held}", highlight=False)
    if len(card.get("compared", {})) > 1:
        table = Table("kind", "RMSE", "Kendall tau", "in the best quarter", title="predictors compared")
        for name, errors in card["compared"].items():
            label = f"{name}, kept" if name == card["kind"] else name
            table.add_row(label, f"{errors['rmse']:.2%}", tau(errors), tau(errors["best_quarter"]))
        console.print(table)
    if warning := ranking_warning(card):
        console.print(f"[yellow]warning:[/] {warning}")


def show_fitted(report: Mapping[str, Any], console: Console) -> None:
    """The predictor's card, and its error by the number of pairs that it is fitted on."""
    show_predictor(report["predictor"], console)
    table = Table("fitted on", "RMSE", "Kendall tau", "near the front", title="learning curve")
    for point in report["learning_curve"]:
        errors = (f"{point['rmse']:.2%}", tau(point), f"{point['near_front']['rmse']:.2%}, {tau(point['near_front'])}")
        table.add_row(str(point["fitted_on"]), *errors)
    console.print(table)


def show_refit(refit: "Refit", console: Console) -> None:
    """Errors of the old and the new predictor near the front, and which one is kept."""
    comparison = refit.to_json()
    table = Table("predictor", "pairs", "RMSE", "Kendall tau", title="held-out pairs near the front")
    counts = {"old": comparison["old_pairs"], "new": comparison["old_pairs"] + comparison["new_pairs"]}
    for name, pairs in counts.items():
        errors = comparison[name]
        table.add_row(name, str(pairs), f"{errors['rmse']:.2%}", tau(errors))
    console.print(table)
    kept = "the new predictor is kept" if refit.is_kept else "the new predictor is worse there; the old one stays"
    console.print(f"{comparison['new']['pairs']} pairs are near the front; {kept}")


def show_ranking(report: Mapping[str, Any], console: Console) -> None:
    """How well inherited accuracies rank subnets, and how well training alone with another seed does."""
    columns = ("Kendall tau-b", "95 % interval", "Spearman", "gap")
    table = Table(Column("sampling", no_wrap=True), *columns, title="inherited accuracy against training alone")
    names = {"uniform": "uniform", "strict_fair": "strictly fair"}
    rows = {names[name]: row for name, row in report["samplers"].items()} | {"alone again": report["ceiling"]}
    for name, row in rows.items():
        interval = "none" if row["interval"] is None else " to ".join(f"{end:.2f}" for end in row["interval"])
        spearman = "none" if row["spearman"] is None else f"{row['spearman']:.2f}"
        table.add_row(name, tau(row), interval, spearman, f"{100 * row['gap']:+.2f} points")
    console.print(table)
    console.print(
        f"{len(report['nets'])} subnets, each trained alone for {report['epochs']} epochs; alone again: another seed. "
        f"Uniform and strictly fair sampling: {report['verdict'].replace('_', '-')}"
    )


def tau(card: Mapping[str, Any]) -> str:
    """Kendall's tau of a predictor's or latency model's card; "none" if the predictions are all equal."""
    return "none" if card["kendall_tau"] is None else f"{card['kendall_tau']:.2f}"


def show_refused(problem: Mapping[str, Any], genes: Sequence[str], console: Console) -> None:
    """The refusal of `supple search`: each limit, its floors alone and with the others, the closest architecture."""
    costs = problem["smallest"]["costs"]
    columns = ("requested", "floor", "with the others", "closest architecture")
    table = Table(Column("limit", no_wrap=True), *columns)
    for name, maximum in problem["limits"].items():
        floor, nearest = problem["floors"][name], _nearest(problem["nearest"][name])
        table.add_row(name, _exact(maximum), _exact(floor), nearest, _exact(costs[name]))
    console.print(table)
    console.print("the closest architecture:")
    console.print("\n".join(architecture_lines(problem["smallest"]["arch"], genes)))


def _nearest(floor: Mapping[str, Any]) -> str:
    """The lowest value of a limit that is possible together with the other limits."""
    if floor["max"] is None:
        return "none" if floor["proven"] else "none found"
    return _exact(floor["max"]) + ("" if floor["proven"] else ", not proven to be the lowest")


def _exact(value: float | None) -> str:
    return "cannot be predicted" if value is None else all_digits(value)


def predicted_accuracy(candidate: Mapping[str, Any]) -> str:
    """A candidate's predicted accuracy, with its 95 % interval where the predictor's errors are known."""
    std = candidate["predicted_accuracy_std"]
    interval = "" if std is None else f" ± {DEVIATIONS * std:.4f} (95 % interval)"
    return f"{candidate['predicted_accuracy']:.4f}{interval}"


def show_answer(answer: Mapping[str, Any], genes: Sequence[str], console: Console) -> None:
    """The answer of `supple search`, each cost beside its limit. genes: the names of a block's genes."""
    best, min_accuracy = answer["best"], answer["request"]["min_accuracy"]
    limits: dict[str, float] = {}
    for limit in answer["limits"]:
        name = f"{limit['cost']}@{limit['device']}" if limit["device"] else limit["cost"]
        limits[name] = min(limit["max"], limits.get(name, limit["max"]))

    def beside(cost: str) -> str:
        return f"   limit {_exact(limits[cost])}" if cost in limits else ""

    console.print("\n".join(architecture_lines(best["arch"], genes)))
    reached = "" if answer["min_accuracy_reached"] is not False else f"   {min_accuracy:g} was not reached"
    inherited, metric = best.get("inherited"), answer["request"].get("metric")
    if inherited:
        label, images = f"inherited {metric.replace('_', ' ')}", f"on {inherited['images']:,} held-out images"
        console.print(f"{label:<22} {inherited[metric]:.4f} {images}{reached}", highlight=False)
        reached = ""
    console.print(f"predicted accuracy     {predicted_accuracy(best)}{reached}", highlight=False)
    for device in answer["latency_models"]:
        ms = best["predicted_latency_ms"].get(device)
        shown = "not known" if ms is None else f"{ms:.4g} ms"
        console.print(f"predicted latency      {shown} on {device}{beside(f'latency_ms@{device}')}", highlight=False)
        for kind in device_costs():
            if kind.name != "latency_ms" and (value := best[f"predicted_{kind.name}"].get(device)) is not None:
                label, amount = f"predicted {kind.label}", rounded(value, kind.units)
                console.print(f"{label:<22} {amount} on {device}{beside(f'{kind.name}@{device}')}", highlight=False)
    for label, cost, text in counted_lines(best):
        console.print(f"{label:<22} {text}{beside(cost)}", highlight=False)
    scored = "scored on held-out images" if inherited else "evaluated"
    architectures = f"{answer['evaluations']:,} architecture{'' if answer['evaluations'] == 1 else 's'}"
    console.print(f"{architectures} {scored} in {answer['elapsed_ms'] / 1e3:.2f} s")
    if answer["optimality"]:
        console.print(optimality_line(answer["optimality"], answer["min_accuracy_reached"]))
    elif answer["two_opt"]:
        better = (
            f"improves the inherited {metric.replace('_', ' ')}" if inherited else "improves the predicted accuracy"
        )
        if answer["min_accuracy_reached"]:
            better = f"has this accuracy at a lower {answer['request']['objective']}"
        console.print(f"no change of one or two genes within the limits {better}")
    else:
        more = "--seconds" if answer["ended_by"] == "seconds" else "--evaluations"
        console.print(f"not all changes of one or two genes were evaluated; more {more} may find a better architecture")
    if answer["ended_by"] == "agreed":
        console.print("restarts of the search agree on it")
    elif answer["ended_by"] == "seconds":
        console.print("the limit on seconds cut the search short, so the same seed may give another answer")
    if answer["sensitivity"]:
        show_sensitivity(answer["sensitivity"], console)


def optimality_line(optimality: Mapping[str, Any], reached: bool | None) -> str:
    """What a certificate says, in words. reached: whether the answer has the required accuracy, if there is one."""
    if reached:
        lower, bound = "this accuracy at a lower cost", _exact(optimality["bound"])
    else:
        lower, bound = "a higher predicted accuracy", f"{optimality['bound']:.6f}"
    if optimality["proven"]:
        return f"optimal for the predictor: it is proven that no architecture within the limits has {lower}"
    return f"not proven optimal: it is proven that no architecture within the limits has {lower} than {bound}"


def show_sensitivity(sensitivity: Sequence[Mapping[str, Any]], console: Console) -> None:
    """The accuracy that a little more or less of each limit brings, and the gene that saves most for its accuracy."""
    console.print("predicted change of accuracy if a limit were a little higher or lower:")
    for row in sensitivity:
        units = cost_kind(row["cost"]).units
        unit = round_amount(row["limit"], units)
        lost = "no network nearby" if row["lost"] is None else f"-{row['lost_per_unit'] * unit:.3%}"
        amount, gained = rounded(unit, units), row["gained_per_unit"] * unit
        console.print(f"  {row['cost']:<26} {amount} more: +{gained:.3%}   {amount} less: {lost}", highlight=False)
        if change := row["cheapest"]:
            moved = f"{change['gene']} {change['old']:g} to {change['new']:g}"
            saved = f"{rounded(-change['cost'], units)} for {change['accuracy']:+.3%}"
            console.print(f"    cheapest change: {moved} saves {saved}", highlight=False)


def show_check(check: "Check", console: Console) -> None:
    """One check of `supple doctor`: how it ended, what was found, what to do."""
    colour = {"ok": "green", "warning": "yellow", "failure": "bold red"}[check.status]
    console.print(f"[{colour}]{check.status:<8}[/] {check.name:<14} {escape(check.detail)}", highlight=False)
    if check.advice:
        console.print(f"{'':<23} {escape(check.advice)}", style="dim", highlight=False)


def show_compared(compared: Mapping[str, Any], console: Console) -> None:
    """The table of `supple compare`."""
    names = ("strategy", "mean", "spread", "regret", "p", "evaluated", "seconds", "progress")
    table = Table(
        *(Column(name, no_wrap=True) for name in names), box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    console.print(
        f"{compared['title']}; {compared['budget']:,} evaluations, {compared['seeds']} seeds", highlight=False
    )
    medians = {name: [value for value in curve["median"] if value] for name, curve in compared["curves"].items()}
    low, high = (end(value for values in medians.values() for value in values) for end in (min, max))
    for row in compared["strategies"]:
        accuracies = (f"{row[name]:.5f}" for name in ("mean", "deviation", "regret"))
        p_value = "" if row["p_value"] is None else f"{row['p_value']:.1e}"
        line = _sparkline(medians[row["strategy"]], low, high)
        table.add_row(
            row["strategy"], *accuracies, p_value, f"{row['evaluations']:,.0f}", f"{row['seconds']:.2f}", line
        )
    console.print(table)
    best = compared["best_known"]
    console.print(
        f"mean, spread: of predicted accuracy; regret: distance to the best known, {best['predicted_accuracy']:.5f}, "
        f"which {best['strategy']} found with seed {best['seed']}; p: {compared['test']}",
        highlight=False,
    )
    if compared["local_search"]:
        console.print("every strategy but random search ends with the local search")


def _sparkline(values: Sequence[float], low: float, high: float, width: int = 8) -> str:
    """A small bar chart in one line. low, high: the values of the lowest and of the highest bar."""
    boxes = "▁▂▃▄▅▆▇█"
    samples = (values[i * len(values) // width] for i in range(width))
    return "".join(boxes[round((value - low) / (high - low or 1) * (len(boxes) - 1))] for value in samples)
