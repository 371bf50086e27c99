"""Do verified answers hold their limits when a fresh process measures them again? And answers that are only predicted?

    python -m benchmarks.verified prepare FOLDER      # a bundle of random weights, and this machine as a device
    python -m benchmarks.verified search FOLDER 25    # 25 more random limits: a predicted and a verified answer each
    python -m benchmarks.verified again FOLDER        # measures all answers again, in this fresh process

The networks are of mbv3-digits with random weights, since only latency counts here; the accuracy predictor prefers
FLOPs. Answers do not start from stored ones (`warm_start: false`). An answer holds if it is measured at no more than
1.02 times its limit. Run each command on a quiet machine.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from evolution.costs import CostTables
from evolution.predictors.accuracy import AccuracyPredictor
from service.context import Context
from service.devices import measurements, queries
from service.devices.measure import measure_machine
from service.devices.probe import fingerprint, make_runtime, run_plan
from service.devices.register import register_device
from service.devices.schemas import DeviceIn, MeasurementsIn
from service.searches.ask import create_search
from service.searches.job import run_search
from service.searches.schemas import SearchIn
from service.searches.show import get_search
from service.searches.verify import store_plan
from service.settings import Settings
from service.supernets.register import register_supernet
from service.upgrade import upgrade
from supernet.families import preset

DEVICE, TOLERANCE, SECONDS = "here", 1.02, 150.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["prepare", "search", "again"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int, nargs="?", default=25, help="of limits")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    settings = Settings(data_directory=options.folder / "data")
    upgrade(settings.database)
    context = Context(settings)
    started = time.monotonic()
    if options.command == "prepare":
        prepare(context, options.folder)
    elif options.command == "search":
        search(context, options.folder / "answers.json", options.count)
    else:
        again(context, options.folder)
    print(f"{time.monotonic() - started:.0f} s")
    context.close()


def prepare(context: Context, folder: Path) -> None:
    """Register the bundle and measure this machine."""
    with context.database.writing() as session:
        supernet = register_supernet(session, context.store, write_random_bundle(folder / "bundle"))
        print(f"supernet {supernet.id}")
    space = preset("mbv3-digits")
    measured = measure_machine(
        space, folder / "measured.json", runtime=make_runtime(), seconds=SECONDS, progress=lambda *_: None
    )
    body = MeasurementsIn.model_validate(measured)
    model = measurements.fit(CostTables(space), body)
    with context.database.writing() as session:
        register_device(session, DeviceIn.model_validate({"name": DEVICE}))
        card = measurements.add_model(session, context.store, DEVICE, body, model).card
    print(json.dumps(card), f"busy {measured['busy']:.2f}")


def write_random_bundle(path: Path) -> Path:
    """A bundle of mbv3-digits with random weights; its predictor has learnt that more FLOPs are more accurate."""
    import torch

    from supernet.bundle_writing import write_bundle
    from supernet.data import Images, Normalization
    from supernet.evaluation.views import Views
    from supernet.families import supernet_class
    from supernet.networks.supernet import initialise

    space, rng, generator = preset("mbv3-digits"), np.random.default_rng(0), torch.Generator().manual_seed(0)
    genomes = space.sample(rng, 200)
    flops = CostTables(space).flops(genomes)
    accuracy = 0.9 + 0.09 * np.log(flops / flops.min()) / np.log(flops.max() / flops.min())
    predictor = AccuracyPredictor.fit(space, genomes, accuracy, None, rng, "ridge")
    supernet = supernet_class(space.family)(space)
    initialise(supernet, generator)
    shape = space.in_channels, space.resolutions[-1], space.resolutions[-1]

    def images(count: int) -> Images:
        pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
        return Images(pixels, torch.arange(count) % space.classes)

    return write_bundle(
        path,
        name="random digits",
        space=space,
        supernet=supernet,
        classes=tuple(map(str, range(space.classes))),
        normalization=Normalization((0.5,) * space.in_channels, (0.25,) * space.in_channels),
        calibration=images(64),
        holdout=images(50),
        views=Views(),
        predictor=predictor.to_bytes(),
        report={"corners": {}},
        provenance={"dataset": "noise", "seed": 0},
    ).path


def search(context: Context, file: Path, count: int) -> None:
    """Ask for a predicted and a verified answer at random limits, between the 5th and 95th percentile of networks."""
    answers = json.loads(file.read_text()) if file.exists() else []
    rng = np.random.default_rng(len(answers))
    with context.database.reading() as session:
        (row,) = queries.list_latest_models(session, devices=[DEVICE])
        source = json.loads(context.store.path(row.measurements).read_bytes())
    low, high = np.percentile([network["ms"] for network in source["networks"]], [5, 95])
    for limit in np.exp(rng.uniform(np.log(low), np.log(high), count)).tolist():
        body = {"device": DEVICE, "max_latency_ms": limit, "warm_start": False}
        predicted = create_search(context, SearchIn.model_validate(body))
        asked = create_search(context, SearchIn.model_validate({**body, "verify": True}))
        run_search(context, lambda name, function: function(), asked.id)
        with context.database.reading() as session:
            verified = get_search(session, context, asked.id)
        answers.append({"limit": limit, "predicted": _answer(predicted), "verified": _answer(verified)})
        file.write_text(json.dumps(answers, indent=1))
        print(f"{limit:.4f} ms: {verified.status}, {answers[-1]['verified']}")


def _answer(shown: Any) -> dict[str, Any] | None:
    if shown.best is None:
        return None
    (limit,) = shown.limits
    details = (shown.best.measured_latency_details or {}).get(DEVICE)
    samples = details.samples if details else None
    return {"id": shown.best.id, "ms": limit.value, "holds": limit.holds, "upper": limit.upper, "samples": samples}


def again(context: Context, folder: Path) -> None:
    """Measure every answer in this process, interleaved, and count the limits that hold."""
    answers = json.loads((folder / "answers.json").read_text())
    with context.database.reading() as session:
        (row,) = queries.list_latest_models(session, devices=[DEVICE])
    stored = {answer["predicted"]["id"] for answer in answers} | {a["verified"]["id"] for a in answers if a["verified"]}
    if row.host != fingerprint() or row.reference_ms is None:
        raise SystemExit("this is another machine than the one that was measured")
    plan = store_plan(context, preset("mbv3-digits"), sorted(stored))
    result = run_plan(context.store.path(plan), samples=40)
    ms = {name: one["ratio"] * row.reference_ms for name, one in result["measurements"].items()}
    (folder / "again.json").write_text(json.dumps({"busy": result["busy"], "ms": ms}, indent=1))
    with context.database.reading() as session:
        for refit in reversed(queries.list_refits(session, [DEVICE])):
            kept = "kept" if refit.new_model else "not kept"
            print(f"refit with {refit.networks} networks: {refit.old_error:.3f} to {refit.new_error:.3f} %, {kept}")
    print(f"{len(ms)} networks measured again, busy {result['busy']:.2f}; {len(answers)} limits")
    for kind in ("verified", "predicted"):
        pairs = [(ms[answer[kind]["id"]], answer["limit"], answer[kind]) for answer in answers if answer[kind]]
        excess = np.array([time_again / limit for time_again, limit, _ in pairs])
        change = np.array([time_again / answer["ms"] for time_again, _, answer in pairs])
        print(
            f"{kind}: {int((excess <= TOLERANCE).sum())} of {len(pairs)} answers hold with 2 % tolerance, "
            f"{int((excess <= 1).sum())} without; measured again over the first: median {np.median(change):.3f}, "
            f"from {change.min():.3f} to {change.max():.3f}; over the limit at most {excess.max():.3f}"
        )


if __name__ == "__main__":
    main()
