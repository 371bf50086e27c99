"""Whether latencies can be right. The usual mistake is a wrong unit: seconds where milliseconds are asked."""

import numpy as np

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.predictors.latency import LatencyModel
from service.errors import InvalidError
from supernet.operators import flat
from supernet.space import Genomes

FASTEST = 1e13  # multiply-adds a millisecond: some ten times what the fastest accelerators do in half precision
FASTEST_CORE = 5e9  # the same of one thread of a CPU: two 512-bit units at 5 GHz do 1.6e8, matrix units ten times that
SHORTEST_OPERATOR = 2e-4  # ms; starting one takes about a microsecond on a CPU, several on a GPU or an NPU
SLOWEST = 1e3  # multiply-adds a millisecond; a microcontroller does ten thousand
MOST_TIMES = 100.0  # between a device's latencies and what its model says, or the sum of its blocks


def check_plausible(
    tables: CostTables,
    genomes: Genomes,
    ms: Floats,
    *,
    batch_size: int,
    cpu_threads: int | None = None,
    known: LatencyModel | None = None,
) -> None:
    """Refuse latencies of whole networks that no device has, or that this device had not before.

    genomes: (N, G). ms: (N,) positive. cpu_threads: how many, if the networks ran on a CPU. known: the device's newest
    latency model, if it has one.

    Raises:
        InvalidError: the latency, what was expected and what to do.
    """
    if not len(ms):
        return
    flops = tables.flops(genomes) * batch_size
    rate = flops / ms  # multiply-adds a millisecond
    most = FASTEST if cpu_threads is None else FASTEST_CORE * cpu_threads
    where = "any device" if cpu_threads is None else f"{cpu_threads} thread{'s' * (cpu_threads > 1)} of any CPU"
    fastest = int(rate.argmax())
    if rate[fastest] > most:
        raise InvalidError(
            f"network {tables.space.id(genomes[fastest])} took {ms[fastest]:.4g} ms for {flops[fastest]:,.0f} "
            f"multiply-adds, which is {rate[fastest] / most:,.1f} times faster than {where}; are these seconds? Send "
            "milliseconds"
        )
    operators = tables.values(lambda records: sum(1 for _ in flat(records)))[tables.index(genomes)].sum(1)
    shortest = int((ms / operators).argmin())
    if ms[shortest] < SHORTEST_OPERATOR * operators[shortest]:
        raise InvalidError(
            f"network {tables.space.id(genomes[shortest])} took {ms[shortest]:.4g} ms; no runtime starts its "
            f"{operators[shortest]:.0f} operators in less than {SHORTEST_OPERATOR * operators[shortest]:.2g} ms; are "
            "these seconds? Send milliseconds"
        )
    if np.median(rate) < SLOWEST:
        raise InvalidError(
            f"the networks do {np.median(rate) / 1e3:.2g} million multiply-adds a second in the median, and a "
            f"microcontroller {SLOWEST / 1e3:g} million at least; are these microseconds or nanoseconds? Send "
            "milliseconds"
        )
    if known is not None:
        compare("the networks'", ms, known.predict(genomes), "the device's latency model predicts")


def compare(whose: str, ms: Floats, expected_ms: Floats, source: str) -> None:
    """Refuse (N,) latencies whose median ratio to the expected ones is out of all proportion. Raises InvalidError."""
    is_known = np.isfinite(expected_ms) & (expected_ms > 0)
    if not is_known.any():
        return
    times = float(np.median(ms[is_known] / expected_ms[is_known]))
    if 1 / MOST_TIMES <= times <= MOST_TIMES:
        return
    amount = f"{times:,.0f} times more" if times > 1 else f"{1 / times:,.0f} times less"
    raise InvalidError(
        f"{whose} latencies are {float(np.median(ms[is_known])):.4g} ms in the median, {amount} than {source}; at most "
        f"{MOST_TIMES:g} times is plausible.{'' if times > 1 else ' Are these seconds?'} Send milliseconds, or "
        "register another device"
    )
