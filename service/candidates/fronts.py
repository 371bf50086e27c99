"""What is said of candidates, and the front over all of them."""

import numpy as np
from sqlalchemy.orm import Session

from evolution.limits import Limit, cost_of
from evolution.pareto import ParetoFront, thin_out
from evolution.problem import Problem
from service.candidates import queries
from service.candidates.schemas import Cost, FrontOut
from service.candidates.show import describe, predict_now
from service.context import Context
from service.devices import queries as devices
from service.errors import InvalidError
from service.supernets import queries as supernets

MOST_MERGED = 512  # members of a front over everything stored that are shown


def front(
    session: Session, context: Context, supernet_id: str, x: Cost, y: Cost | None, device: str | None
) -> FrontOut:
    """The Pareto front over all stored candidates of a supernet, as the newest models see them.

    Raises:
        NotFoundError: no such supernet or device. InvalidError: a device missing, or not measured for this space; twice
            the same cost.
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
    tables, predictor = context.loaded(supernet).tables, context.predictor(supernet)
    latency = {
        name: context.latency_model(row, tables)
        for name, row in devices.models_for(session, [device] if device else [], supernet.space_hash).items()
    }
    limits = [Limit(name, 1.0, device if name == "latency_ms" else None) for name in names]
    problem = Problem(tables, predictor, pareto=tuple(cost_of(limit, tables, latency) for limit in limits))
    ids, genomes, accuracy = queries.of_supernet(session, supernet)
    values = np.stack([cost(genomes) for cost in problem.pareto], axis=1) if ids else np.zeros((0, len(names)))
    known = np.isfinite(values).all(1)
    merged = ParetoFront.from_genomes(genomes[known], accuracy[known], values[known], problem.cost_names[: len(names)])
    by_genome = {genome.tobytes(): one for genome, one in zip(genomes, ids, strict=True)}
    kept = merged.genomes[thin_out(merged.objectives, MOST_MERGED)]
    candidates = queries.by_id(session, [by_genome[genome.tobytes()] for genome in kept])
    return FrontOut(
        supernet=supernet.id,
        predictor=supernet.predictor_version or "",
        x=x,
        y=y,
        device=device,
        candidates=len(ids),
        size=len(merged),
        hypervolume=merged.hypervolume(problem.reference),
        reference=dict(zip(("error", *merged.names), problem.reference, strict=True)),
        items=describe(session, context, candidates, predict_now(session, context, candidates)),
    )
