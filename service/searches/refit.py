"""Verified latencies go back into the latency models that predicted them, where that makes their errors no larger."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import ValidationError
from sqlalchemy.orm import Session

from evolution.costs import CostTables
from evolution.predictors.latency import LatencyModel
from evolution.predictors.validation import folds
from service.candidates import queries as candidates
from service.context import Context
from service.devices import measurements
from service.devices import queries as devices
from service.devices.schemas import MeasurementsIn, NetworkMeasured
from service.searches import queries
from service.searches.question import load_question
from service.storage.tables import LatencyMeasurement, LatencyModelRow, LatencyRefit, new_id
from supernet.space import Architecture

log = logging.getLogger("supple.searches")

FEWEST_NETWORKS = 8  # measured since the last fit; fewer tell its error apart from noise too rarely
FOLDS = 5
SEED = 0  # draws the folds


@dataclass(frozen=True)
class Comparison:
    """Mean absolute percentage errors on the same networks, each predicted by a fit that did not see it.

    old: of fits without the verified networks. new: of fits with them.
    """

    old: float
    new: float


def refit_models(context: Context, search_id: str) -> None:
    """Fit the latency models of a search's devices anew with the networks that verification measured since.

    A new model is stored only if its error is no larger than the old one's. Both errors are stored either way.
    """
    with context.database.reading() as session:
        question = load_question(session, context, queries.get(session, search_id))
        rows = devices.list_latest_models(session, space_hash=question.supernet.space_hash)
        models = {row.device: row for row in rows if row.device in question.latency_models}
        sources = {name: _read(context, model) for name, model in models.items()}
        verified = {name: _verified(session, models[name], body) for name, body in sources.items() if body}
        due = [name for name, networks in verified.items() if _is_due(session, models[name], len(networks))]
    tables = context.tables(question.supernet)
    for name in due:
        body, model = sources[name], models[name]
        if body is None:
            continue
        known = {row.device: context.latency_model(row, tables) for row in rows if row.device != name}
        try:
            errors = compare(tables, body, verified[name], known, np.random.default_rng(SEED))
        except ValueError as error:  # a fold has too few networks for a fit
            log.info("the latency model of %s is not fitted anew: %s", name, error)
            continue
        helps = errors.new <= errors.old
        old = context.latency_model(model, tables)
        together, fitted = fit_together(tables, body, verified[name], known, old) if helps else (body, None)
        row = LatencyRefit(
            id=new_id(),
            device=name,
            space_hash=model.space_hash,
            old_model=model.id,
            networks=len(verified[name]),
            old_error=errors.old,
            new_error=errors.new,
        )
        with context.database.writing() as session:
            devices.lock(session, name)
            newest = devices.get_models(session, [name], model.space_hash)[name]
            if newest.id != model.id:  # measured or fitted anew meanwhile
                continue
            if fitted is not None:
                row.new_model = _add(session, context, name, together, fitted, row)
            devices.add_refit(session, row)


def compare(
    tables: CostTables,
    body: MeasurementsIn,
    verified: Sequence[NetworkMeasured],
    known: Mapping[str, LatencyModel],
    rng: np.random.Generator,
) -> Comparison:
    """The errors of fits with and without the verified networks, on held-out networks of both kinds.

    known: the other devices' latency models, from which a model of whole networks alone borrows.
    """
    networks = [*body.networks, *verified]
    is_old = np.arange(len(networks)) < len(body.networks)
    errors: dict[bool, list[float]] = {True: [], False: []}  # by whether a fit has the verified networks
    genomes = np.stack([tables.space.encode(Architecture.from_json(network.architecture)) for network in networks])
    measured = np.array([network.ms for network in networks])
    for seen, unseen in folds(len(networks), FOLDS, rng):
        for has_verified, rows in ((False, seen[is_old[seen]]), (True, seen)):
            part = body.model_copy(update={"networks": [networks[row] for row in rows]})
            predicted = measurements.fit_latency(tables, part, known).predict(genomes[unseen])
            errors[has_verified] += np.abs(predicted / measured[unseen] - 1).tolist()
    return Comparison(100 * float(np.mean(errors[False])), 100 * float(np.mean(errors[True])))


def fit_together(
    tables: CostTables,
    body: MeasurementsIn,
    verified: Sequence[NetworkMeasured],
    known: Mapping[str, LatencyModel],
    old: LatencyModel,
) -> tuple[MeasurementsIn, LatencyModel]:
    """The measurements with the verified networks, and the model fitted on them.

    Verification may see other programs' memory and energy. Where a limit that the old model takes would be refused, the
    verified networks have latencies alone.
    """
    latencies = [network.model_copy(update={"memory_bytes": None, "joules": None}) for network in verified]
    for networks in (verified, latencies):
        together = body.model_copy(update={"networks": [*body.networks, *networks]})
        fitted = measurements.fit(tables, together, known)
        if fitted.limitable.keys() >= old.limitable.keys():
            break
    return together, fitted


def _read(context: Context, model: LatencyModelRow) -> MeasurementsIn | None:
    """What a latency model was fitted on; None for one that was published, which no probe measured."""
    if not model.host:
        return None
    try:
        return MeasurementsIn.model_validate_json(context.store.path(model.measurements).read_bytes())
    except ValidationError:
        return None


def _verified(session: Session, model: LatencyModelRow, body: MeasurementsIn) -> list[NetworkMeasured]:
    """The networks that verification measured on a device on the scale of its model, which was not fitted on them."""
    known = {_key(network.architecture) for network in body.networks}
    networks = []
    for candidate, measured in candidates.verified_latencies(session, model.device, model.space_hash):
        if _key(candidate.architecture) not in known and _is_on_scale(measured, model):
            networks.append(
                NetworkMeasured.model_validate(
                    {
                        "architecture": candidate.architecture,
                        "ms": measured.measured_latency_ms,
                        **measurements.told_fields(measured.details.get("beside", {})),
                    }
                )
            )
            known.add(_key(candidate.architecture))
    return networks


def _key(architecture: dict[str, object]) -> Architecture:
    return Architecture.from_json(architecture)


def _is_on_scale(measured: LatencyMeasurement, model: LatencyModelRow) -> bool:
    scale = measured.details.get("device_reference_ms")
    return scale is not None and scale == model.reference_ms


def _is_due(session: Session, model: LatencyModelRow, networks: int) -> bool:
    """Whether enough networks were measured since the last attempt to fit this model anew."""
    attempts = devices.list_refits(session, [model.device])
    before = max((row.networks for row in attempts if row.old_model == model.id), default=0)
    return networks >= before + FEWEST_NETWORKS


def _add(
    session: Session, context: Context, name: str, body: MeasurementsIn, fitted: LatencyModel, row: LatencyRefit
) -> str:
    card = {
        **fitted.card,
        "refit": {
            "verified_networks": row.networks,
            "old_error": row.old_error,
            "new_error": row.new_error,
        },
    }
    return measurements.add_model(session, context.store, name, body, replace(fitted, card=card)).id
