"""The Pareto front over all stored candidates of a supernet."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from evolution.pareto import thin_out
from evolution.problem import build_problem
from service.candidates import queries
from service.candidates.schemas import Cost, FrontOut
from service.candidates.show import newest_predictions, show_candidates
from service.context import Context
from service.devices import queries as devices
from service.errors import InvalidError
from service.supernets import queries as supernets

MOST_SHOWN = 512  # members of the front


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
    if (device is None) == ("latency_ms" in names):
        raise InvalidError(
            "latency_ms needs a device"
            if device is None
            else f"{' and '.join(names)}: the same on every device; leave device {device!r} out"
        )
    tables, predictor = context.tables(supernet), context.predictor(supernet)
    latency_models = {
        name: context.latency_model(row, tables)
        for name, row in devices.get_models(session, [device] if device else [], supernet.space_hash).items()
    }
    problem = build_problem(tables, predictor, latency_models, front=names, device=device)
    stored = context.catalogue(supernet).read(session)
    front = stored.front(problem.pareto)
    shown = front.genomes[thin_out(front.objectives, MOST_SHOWN)]
    ids = [queries.candidate_id(supernet.id, tables.space.id(genome)) for genome in shown]
    rows = queries.by_id(session, ids)
    return FrontOut(
        supernet=supernet.id,
        predictor=supernet.predictor_version or "",
        x=x,
        y=y,
        device=device,
        candidates=len(stored),
        size=len(front),
        hypervolume=front.hypervolume(problem.reference),
        reference=dict(zip(("error", *front.names), problem.reference, strict=True)),
        items=show_candidates(session, context, rows, newest_predictions(session, context, rows)),
    )


def merge_device_fronts(
    session: Session, context: Context, supernet_id: str, names: Sequence[str]
) -> dict[str, FrontOut]:
    """By device, the front of accuracy and latency. names: of devices; none for all that were measured for the space.

    Raises what `merge_front` does.
    """
    space_hash = supernets.get(session, supernet_id).space_hash
    measured = [model.device for model in devices.list_latest_models(session, space_hash=space_hash)]
    return {
        name: merge_front(session, context, supernet_id, "latency_ms", None, name)
        for name in dict.fromkeys(names or measured)
    }
