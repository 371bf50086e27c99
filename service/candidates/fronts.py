"""The Pareto front over all stored candidates of a supernet."""

from collections.abc import Sequence
from itertools import chain

from sqlalchemy.orm import Session

from evolution.costs import DEVICE_COSTS
from evolution.pareto import ParetoFront, thin_out
from evolution.problem import build_problem
from service.candidates import queries
from service.candidates.schemas import Cost, FrontOut
from service.candidates.show import newest_predictions, show_candidates
from service.context import Context
from service.devices import queries as devices
from service.errors import InvalidError
from service.storage.tables import Supernet
from service.supernets import queries as supernets
from supernet.space import SearchSpace

MOST_SHOWN = 512  # members of the front
MOST_AT_ONCE = 16  # fronts whose members are read together


def merge_front(
    session: Session, context: Context, supernet_id: str, x: Cost, y: Cost | None, device: str | None
) -> FrontOut:
    """The Pareto front of accuracy, x and y over all stored candidates of a supernet, predicted by the newest models.

    Raises:
        NotFoundError: no such supernet or device. InvalidError: a device is missing, or was not measured for this
            space; x and y are the same cost.
    """
    supernet = supernets.get(session, supernet_id)
    names = [name for name in (x, y) if name is not None]
    if len(set(names)) != len(names):
        raise InvalidError(f"x and y are both {x}; name another cost, or leave y out")
    on_device = [name for name in names if name in DEVICE_COSTS]
    if (device is None) == bool(on_device):
        raise InvalidError(
            f"{on_device[0]} needs a device"
            if device is None
            else f"{' and '.join(names)}: the same on every device; leave device {device!r} out"
        )
    return _merge(session, context, supernet, [(names, device)])[0]


def merge_device_fronts(
    session: Session, context: Context, supernet_id: str, names: Sequence[str]
) -> dict[str, FrontOut]:
    """By device, the front of accuracy and latency. names: of devices; none for all that were measured for the space.

    Raises what `merge_front` does.
    """
    supernet = supernets.get(session, supernet_id)
    measured = [model.device for model in devices.list_latest_models(session, space_hash=supernet.space_hash)]
    wanted: list[tuple[list[Cost], str]] = [(["latency_ms"], name) for name in dict.fromkeys(names or measured)]
    fronts: list[FrontOut] = []
    for start in range(0, len(wanted), MOST_AT_ONCE):
        fronts += _merge(session, context, supernet, wanted[start : start + MOST_AT_ONCE])
    return {name: front for (_, name), front in zip(wanted, fronts, strict=True)}


def _merge(
    session: Session, context: Context, supernet: Supernet, wanted: Sequence[tuple[list[Cost], str | None]]
) -> list[FrontOut]:
    """Fronts over all stored candidates of a supernet, with one query each for what they share.

    wanted: for each front its one or two costs, and the device that they are on.
    """
    tables, predictor = context.tables(supernet), context.predictor(supernet)
    on_devices = [device for _, device in wanted if device is not None]
    latency_models = {
        name: context.latency_model(row, tables)
        for name, row in devices.get_models(session, on_devices, supernet.space_hash).items()
    }
    stored = context.catalogue(supernet).read(session)
    fronts = []
    for costs, device in wanted:
        models = {device: latency_models[device]} if device else {}
        problem = build_problem(tables, predictor, models, front=costs, device=device)
        fronts.append((problem, stored.front(problem.pareto)))
    members = [_members(supernet.id, tables.space, front) for _, front in fronts]
    rows = queries.by_id(session, list(dict.fromkeys(chain.from_iterable(members))))
    items = show_candidates(session, context, rows, newest_predictions(session, context, rows))
    shown = {item.id: item for item in items}
    return [
        FrontOut(
            supernet=supernet.id,
            predictor=supernet.predictor_version or "",
            x=costs[0],
            y=costs[1] if len(costs) > 1 else None,
            device=device,
            candidates=len(stored),
            size=len(front),
            hypervolume=front.hypervolume(problem.reference),
            reference=dict(zip(("error", *front.names), problem.reference, strict=True)),
            items=[shown[name] for name in ids],
        )
        for (costs, device), (problem, front), ids in zip(wanted, fronts, members, strict=True)
    ]


def _members(supernet_id: str, space: SearchSpace, front: ParetoFront) -> list[str]:
    """The ids of a front's members to show, at most `MOST_SHOWN` that lie far apart."""
    shown = front.genomes[thin_out(front.objectives, MOST_SHOWN)]
    return [queries.candidate_id(supernet_id, space.id(genome)) for genome in shown]
