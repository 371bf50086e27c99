"""What is exact about the latency of every part of a network: operators, FLOPs, tensors, weights; in groups.

A latency model from whole networks alone is linear in these features, so it adds up over parts. Each group answers
another question, and a regression shrinks each group by itself:

    operations     how many operators of a kind; their launch costs
    work           multiply-adds, activations read and written, and weights, by kind of operator
    part_time      how much each part's time deviates, the same at all resolutions
    part_work      how much each part's time deviates, in proportion to its work
    variant_time   how much one choice of kernel size, width, ... of a part deviates
    variant_work   the same, in proportion to its work
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from supernet.costs.tables import PartTables
from supernet.operators import Operator, Operators, Parallel
from supernet.space import Genomes

CACHED = 8  # features, of as many spaces
GROUPS = ("operations", "work", "part_time", "part_work", "variant_time", "variant_work")


@lru_cache(CACHED)
def part_features(tables: PartTables) -> "PartFeatures":
    """The features of a space's tables, made once."""
    return PartFeatures(tables)


class PartFeatures:
    """The features of every entry of a space's tables.

    groups: by name, (F, D) features, 0 where a part is dropped. A feature's total over an average network is 1 in the
        groups `operations` and `work`. In the other groups the totals of all features of a group add up to 1.

    >>> from supernet.families import preset
    >>> features = PartFeatures(PartTables(preset("mbv3-digits")))
    >>> {name: columns.shape[1] for name, columns in features.groups.items() if name in GROUPS[:3]}
    {'operations': 10, 'work': 18, 'part_time': 8}
    """

    def __init__(self, tables: PartTables) -> None:
        self.tables = tables

    @cached_property
    def groups(self) -> Mapping[str, Floats]:
        """See the class."""
        counts, amounts = _columns(self.tables, _operations), _columns(self.tables, _amounts)
        operations, work = self._normalised(counts), self._normalised(amounts)
        time = operations.mean(1, keepdims=True)
        share = work.mean(1, keepdims=True)
        parts, variants = (_one_hot(ids) for ids in (self._part_ids, self._variant_ids))
        columns = (operations, work, parts * time, parts * share, variants * time, variants * share)
        return dict(zip(GROUPS, columns, strict=True))

    @cached_property
    def size(self) -> Floats:
        """(F,) a rough latency of each entry, without unit: 1 for an average network, half launches and half work."""
        size: Floats = 0.5 * (self.groups["operations"].mean(1) + self.groups["work"].mean(1))
        return size

    def totals(self, values: Floats, genomes: Genomes) -> Floats:
        """(N, D) sums over the parts of (N, G) genomes of (F, D) values, or (N,) of (F,)."""
        index = self.tables.index(genomes)
        total = np.zeros((len(genomes), *values.shape[1:]))
        for column in index.T:
            total += values[column]
        return total

    def _normalised(self, columns: Floats) -> Floats:
        """Columns over their totals in an average network: its parts are averages over all choices of their genes."""
        tables = self.tables
        entries = np.bincount(tables.parts)[list(tables.parts)]
        scaled: Floats = columns / (columns / entries[:, None]).sum(0)
        return scaled

    @cached_property
    def _part_ids(self) -> NDArray[np.intp]:
        """(F,) the number of each entry's part; -1 where it is dropped."""
        return np.where(self.tables.dropped, -1, np.array(self.tables.parts))

    @cached_property
    def _variant_ids(self) -> NDArray[np.intp]:
        """(F,) the number of what each entry runs, whatever the resolution; -1 where it is dropped."""
        keys = [
            (part, _without_side(records))
            for part, records in zip(self.tables.parts, self.tables.operators, strict=True)
        ]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(key for key in keys if key[1]))}
        return np.array([numbers.get(key, -1) for key in keys])


def _columns(tables: PartTables, describe: Callable[[Operators], Counter[str]]) -> Floats:
    """(F, D) what `describe` counts in each entry's records, one column per name."""
    described = {records: describe(records) for records in set(tables.operators)}
    names = sorted({name for counts in described.values() for name, amount in counts.items() if amount})
    rows = {records: [counts[name] for name in names] for records, counts in described.items()}
    return np.array([rows[records] for records in tables.operators], np.float64)


def _one_hot(ids: NDArray[np.intp]) -> Floats:
    """(F, D) one column per id from 0; zeros for -1."""
    features = np.zeros((len(ids), int(ids.max()) + 1))
    (rows,) = np.nonzero(ids >= 0)
    features[rows, ids[rows]] = 1
    return features


def _all_records(operators: Operators) -> Iterator[Operator | Parallel]:
    """Every operator and every join, inside branches too."""
    for record in operators:
        yield record
        if isinstance(record, Parallel):
            for branch in record.branches:
                yield from _all_records(branch)


def _kind(record: Operator | Parallel) -> str:
    """The kind of operator, as far as runtimes have other code for it."""
    if isinstance(record, Parallel):
        return record.join
    if record.kind != "conv":
        return record.kind
    if record.groups > 1:
        return "depthwise" if record.groups == record.in_channels else "grouped"
    return "pointwise" if record.kernel_size == 1 else "conv"


def _operations(operators: Operators) -> Counter[str]:
    """How many operators of each kind, and how many activations."""
    counts: Counter[str] = Counter()
    for record in _all_records(operators):
        counts[_kind(record)] += 1
        if record.activation:
            counts[record.activation] += 1
    return counts


def _amounts(operators: Operators) -> Counter[str]:
    """By kind: multiply-adds, elements read and written, elements of weights; by activation: elements."""
    amounts: Counter[str] = Counter()
    for record in _all_records(operators):
        kind, written = _kind(record), record.out_channels * record.out_side**2
        amounts[f"{kind} elements"] += written + record.in_channels * record.side**2
        if isinstance(record, Operator):
            amounts[f"{kind} flops"] += record.flops
            amounts[f"{kind} weights"] += record.params
        if record.activation:
            amounts[f"{record.activation} elements"] += written
    return amounts


def _without_side(operators: Operators) -> Sequence[Any]:
    """What the records say apart from the sizes of feature maps."""
    fields: list[Any] = []
    for record in _all_records(operators):
        if isinstance(record, Parallel):
            fields.append((record.join, len(record.branches), record.split, record.activation, record.in_channels))
        else:
            shape = record.in_channels, record.out_channels, record.kernel_size, record.stride, record.groups
            fields.append((record.kind, *shape, record.activation, record.bias, record.norm))
    return tuple(fields)
