"""Whether a result can be right: of this job's plan, in milliseconds, of networks like these."""

from statistics import median

from service.errors import InvalidError
from service.measurement_jobs.schemas import ResultIn
from service.storage.tables import Device, LatencyModelRow, MeasurementJob

MOST_TIMES = 20.0  # between a latency and what was expected of it; a wrong unit is a factor of 1,000


def check_result(result: ResultIn, job: MeasurementJob, device: Device, model: LatencyModelRow) -> None:
    """Refuse a result that is not of this job or cannot be right.

    model: the device's newest latency model for the job's space.

    Raises:
        InvalidError: the value, what was expected and what to do.
    """
    settings = {
        "space_hash": job.space_hash,
        "plan": job.plan,
        "threads": device.threads,
        "batch_size": device.batch_size,
    }
    for name, expected in settings.items():
        if (value := getattr(result, name)) != expected:
            raise InvalidError(
                f"{name} of the result is {str(value)[:16]}, the job's is {str(expected)[:16]}; send the result of "
                "this job's plan"
            )
    names, wanted = set(result.measurements), set(job.expected_ms)
    if strange := sorted(names ^ wanted):
        fault = "is not measured" if strange[0] in wanted else "is not in the job's plan"
        raise InvalidError(f"network {strange[0]} {fault}; send a result of all {len(wanted)} networks of the plan")
    if model.reference_ms is not None:
        _compare("the reference networks", result.reference_ms, model.reference_ms, "when the device was measured")
    for name, sampled in result.measurements.items():
        ratio = median(sampled.ratios)
        _compare(f"network {name}", sampled.wall_ms, ratio * result.reference_ms, "by its ratios")
        scale = model.reference_ms or result.reference_ms
        _compare(f"network {name}", ratio * scale, job.expected_ms[name], "by prediction")


def _compare(what: str, ms: float, expected_ms: float, source: str) -> None:
    times = ms / expected_ms
    if 1 / MOST_TIMES <= times <= MOST_TIMES:
        return
    difference = f"{times:,.0f} times more" if times > 1 else f"{1 / times:,.0f} times less"
    hint = "; are these seconds? Send milliseconds" if 500 < 1 / times < 2_000 else ""
    raise InvalidError(
        f"{what}: {ms:.4g} ms measured, {expected_ms:.4g} ms {source}, {difference}; "
        f"at most {MOST_TIMES:g} times is plausible{hint or '; measure again'}"
    )
