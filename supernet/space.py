"""The search space and its architectures, as values. numpy only; importing this never loads torch.

An architecture has two forms. `Architecture` is for people and JSON: it lists only the kept blocks. A genome is for
search: G small integers, each the index of a choice, so that N architectures make one (N, G) array. In a canonical
genome the genes of dropped blocks hold 0, so equal subnets have equal genomes.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from supernet.operators import Operator, Operators, Part, flat

Genomes = NDArray[np.int8]  # (N, G); (G,) for one
Value = int | float
Block = tuple[Value, ...]  # values of the block's genes, in the order of `SearchSpace.block_genes`


@dataclass(frozen=True, slots=True)
class Gene:
    """One decision: its name and its choices, ascending where they have an order."""

    name: str
    choices: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One subnet, as a value. Only kept blocks are listed, so equal subnets compare equal.

    resolution: height and width of the input image, pixels.
    stages: per stage, per kept block, the values of the block's genes.
    extra: names and values of the genes that belong to no block, in the order of `SearchSpace.extra_genes`.

    >>> Architecture.from_json({"resolution": 8, "stages": [[[3, 2]], [[3, 2]], [[3, 2]]]})
    Architecture(resolution=8, stages=(((3, 2),), ((3, 2),), ((3, 2),)), extra=())
    """

    resolution: int
    stages: tuple[tuple[Block, ...], ...]
    extra: tuple[tuple[str, Value], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """`{"resolution": 192, "stages": [[[3, 4], [5, 6]], ...]}`; each extra gene adds a key."""
        stages = [[list(block) for block in stage] for stage in self.stages]
        return {"resolution": self.resolution, "stages": stages, **dict(self.extra)}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: `data` does not have this form. `SearchSpace.encode` checks that the values lie in a space.
        """
        form = '{"resolution": 192, "stages": [[[3, 4], [5, 6]], ...]}'
        if not isinstance(data, Mapping) or not isinstance(data.get("stages"), Sequence):
            raise ValueError(f"an architecture is written {form}, not {json.dumps(data, default=str)[:200]}")
        resolution = _integer("resolution", data.get("resolution"))
        stages = []
        for stage_number, stage in enumerate(data["stages"], 1):
            if not isinstance(stage, Sequence) or not all(
                isinstance(b, Sequence) and not isinstance(b, str) for b in stage
            ):
                raise ValueError(f"stage {stage_number} is a list of blocks, each a list of numbers, as in {form}")
            stages.append(tuple(tuple(_number(f"stage {stage_number}", value) for value in block) for block in stage))
        extra = ((key, _number(key, value)) for key, value in data.items() if key not in ("resolution", "stages"))
        return cls(resolution, tuple(stages), tuple(sorted(extra)))

    def at(self, resolution: int) -> "Architecture":
        """The same blocks at another resolution."""
        return Architecture(resolution, self.stages, self.extra)


class Layout(Protocol):
    """What a family adds to a space: widths, strides, activations. A frozen dataclass with JSON-able fields."""

    def parts(self, space: "SearchSpace") -> tuple[Part, ...]:
        """The network as parts in the order in which they run, each with the genes it depends on."""


@dataclass(frozen=True)
class SearchSpace:
    """Which architectures there are. Frozen; serialises to JSON; its hash names it.

    family: a key of `supernet.families.families()`; layout: the family's own settings.
    depths: per stage, the choices for the number of kept blocks, ascending; a stage keeps its first blocks.
    block_genes: the genes that each block has. extra_genes: genes that belong to no block, sorted by name.
    block_choices: per stage, per block, the choices of each block gene, where blocks differ; empty if every block has
    all the choices in `block_genes`.

    >>> space = preset("mbv3-digits")
    >>> space.resolutions, space.depths
    ((8, 12, 16), ((1, 2), (1, 2), (1, 2)))
    >>> space.smallest().to_json()
    {'resolution': 8, 'stages': [[[3, 2]], [[3, 2]], [[3, 2]]]}
    """

    name: str
    family: str
    classes: int
    in_channels: int
    resolutions: tuple[int, ...]
    depths: tuple[tuple[int, ...], ...]
    block_genes: tuple[Gene, ...]
    layout: Layout
    extra_genes: tuple[Gene, ...] = ()
    block_choices: tuple[tuple[tuple[tuple[Value, ...], ...], ...], ...] = ()

    def __post_init__(self) -> None:
        lengths = tuple(tuple(map(len, stage)) for stage in self.block_choices)
        if lengths and lengths != tuple((len(self.block_genes),) * choices[-1] for choices in self.depths):
            raise ValueError(f"{self.name}: block_choices need choices for each gene of each block, not {lengths}")
        for gene in self.genes:
            if not gene.choices or len(set(gene.choices)) != len(gene.choices):
                raise ValueError(f"{self.name}: gene {gene.name} needs distinct choices, not {gene.choices}")
            if len(gene.choices) > np.iinfo(np.int8).max:
                raise ValueError(f"{self.name}: gene {gene.name} has {len(gene.choices)} choices; the limit is 127")
        extra = [gene.name for gene in self.extra_genes]
        if extra != sorted({*extra} - {"resolution", "stages"}):
            raise ValueError(
                f"{self.name}: extra genes need names in ascending order, other than resolution and stages, not {extra}"
            )
        for stage, choices in enumerate(self.depths, 1):
            if list(choices) != sorted(choices) or choices[0] < 1:
                raise ValueError(f"{self.name}: depths of stage {stage} must ascend from at least 1, not {choices}")

    # The layout of a genome: resolution, extra genes, one depth per stage, then the blocks' genes, stage by stage.

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        """All genes, in genome order."""
        head = (Gene("resolution", self.resolutions), *self.extra_genes)
        depths = tuple(Gene(f"stage{s}.depth", choices) for s, choices in enumerate(self.depths, 1))
        blocks = tuple(
            Gene(f"stage{s}.block{b}.{gene.name}", choices)
            for s, depth_choices in enumerate(self.depths, 1)
            for b in range(1, depth_choices[-1] + 1)
            for gene, choices in zip(self.block_genes, self._choices_of_block(s - 1, b - 1), strict=True)
        )
        return head + depths + blocks

    def _choices_of_block(self, stage: int, block: int) -> tuple[tuple[Value, ...], ...]:
        """Per block gene, the choices that a block has; stage, block: from 0."""
        if self.block_choices:
            return self.block_choices[stage][block]
        return tuple(gene.choices for gene in self.block_genes)

    @cached_property
    def num_choices(self) -> NDArray[np.int64]:
        """(G,) number of choices of each gene."""
        return np.array([len(gene.choices) for gene in self.genes])

    @property
    def num_genes(self) -> int:
        """G."""
        return len(self.genes)

    @cached_property
    def num_architectures(self) -> int:
        """How many subnets there are: canonical genomes."""
        count = math.prod(len(gene.choices) for gene in (self.genes[0], *self.extra_genes))
        for stage, depths in enumerate(self.depths):
            starts = [self.gene_of_block(stage, block) for block in range(depths[-1])]
            widths = [math.prod(self.num_choices[start : start + len(self.block_genes)].tolist()) for start in starts]
            count *= sum(math.prod(widths[:depth]) for depth in depths)
        return count

    def depth_gene(self, stage: int) -> int:
        """Index of a stage's depth gene. stage: from 0."""
        return 1 + len(self.extra_genes) + stage

    def gene_of_block(self, stage: int, block: int) -> int:
        """Index of the first gene of a block; the block's other genes follow. stage, block: from 0."""
        before = sum(choices[-1] for choices in self.depths[:stage]) + block
        return self.depth_gene(len(self.depths)) + before * len(self.block_genes)

    @cached_property
    def life(self) -> tuple[NDArray[np.intp], NDArray[np.int8]]:
        """(G,) twice: per gene, the depth gene that decides whether it matters, and that gene's smallest such choice.

        For genes that always matter these are gene 0 and its choice 0.
        """
        depth_gene, smallest = np.zeros(self.num_genes, np.intp), np.zeros(self.num_genes, np.int8)
        for s, choices in enumerate(self.depths):
            for b in range(choices[-1]):
                first = self.gene_of_block(s, b)
                depth_gene[first : first + len(self.block_genes)] = self.depth_gene(s)
                smallest[first : first + len(self.block_genes)] = np.searchsorted(choices, b + 1)
        return depth_gene, smallest

    # Genomes.

    def alive(self, genomes: Genomes) -> NDArray[np.bool_]:
        """(N, G) whether each gene matters: False for the genes of dropped blocks."""
        depth_gene, smallest = self.life
        alive: NDArray[np.bool_] = genomes[..., depth_gene] >= smallest
        return alive

    def canonical(self, genomes: Genomes) -> Genomes:
        """(N, G) the same subnets with 0 in every gene that does not matter."""
        return np.where(self.alive(genomes), genomes, np.int8(0)).astype(np.int8)

    def sample(
        self, rng: np.random.Generator, count: int, open_choices: Sequence[Sequence[int]] | None = None
    ) -> Genomes:
        """(count, G) canonical genomes, each gene uniform over its choices, or over its `open_choices` if given."""
        choices = open_choices or [range(int(n)) for n in self.num_choices]
        columns = [rng.choice(np.asarray(column, np.int8), count) for column in choices]
        return self.canonical(np.stack(columns, axis=1))

    def open_choices(self, **values: Sequence[Value]) -> list[list[int]]:
        """Per gene, the indices of its choices when the named genes are restricted to `values`.

        A name is `resolution`, `depth`, a block gene's name or the last part of an extra gene's dotted name; it
        restricts each gene whose name ends in it. Other genes keep all their choices. Each stage keeps the requested
        depths that it offers. If every requested depth is larger than its largest, it keeps its largest.

        Raises:
            ValueError: an unknown name, or values none of which a gene offers.
        """
        names = {gene.name.rsplit(".", 1)[-1] for gene in self.genes}
        for name in values:
            if name not in names:
                raise ValueError(f"{self.name} has no gene {name!r}; its genes are {', '.join(sorted(names))}")
        result = []
        for gene in self.genes:
            name = gene.name.rsplit(".", 1)[-1]
            requested = values.get(name, gene.choices)
            indices = [i for i, choice in enumerate(gene.choices) if choice in requested]
            if not indices and name == "depth" and max(gene.choices) < min(requested):
                indices = [len(gene.choices) - 1]
            if not indices:
                raise ValueError(f"{gene.name}: none of {list(requested)} is one of its choices {list(gene.choices)}")
            result.append(indices)
        return result

    # Architectures.

    def encode(self, arch: Architecture) -> Genomes:
        """(G,) the canonical genome of an architecture.

        Raises:
            ValueError: the architecture lies outside this space; the message names the gene, the value and the choices.
        """
        genome = np.zeros(self.num_genes, np.int8)
        genome[0] = self._index(0, arch.resolution)
        extra = dict(arch.extra)
        unknown = set(extra) - {gene.name for gene in self.extra_genes}
        if unknown:
            raise ValueError(f"{self.name} has no gene {sorted(unknown)[0]!r} beside resolution and stages")
        for position, gene in enumerate(self.extra_genes, 1):
            if gene.name not in extra:
                raise ValueError(f"{gene.name} is missing; its choices are {list(gene.choices)}")
            genome[position] = self._index(position, extra[gene.name])
        if len(arch.stages) != len(self.depths):
            raise ValueError(f"{len(arch.stages)} stages given; {self.name} has {len(self.depths)}")
        for s, stage in enumerate(arch.stages):
            genome[self.depth_gene(s)] = self._index(self.depth_gene(s), len(stage))
            for b, block in enumerate(stage):
                if len(block) != len(self.block_genes):
                    names = ", ".join(gene.name for gene in self.block_genes)
                    raise ValueError(f"stage{s + 1}.block{b + 1} has {len(block)} values; a block has [{names}]")
                first = self.gene_of_block(s, b)
                for offset, value in enumerate(block):
                    genome[first + offset] = self._index(first + offset, value)
        return genome

    def _index(self, gene: int, value: Value) -> int:
        choices = self.genes[gene].choices
        if value not in choices:
            raise ValueError(f"{self.genes[gene].name} is {value}; its choices are {', '.join(map(str, choices))}")
        return choices.index(value)

    def decode(self, genome: Genomes) -> Architecture:
        """The architecture of one (G,) genome, canonical or not."""
        values = self.values(genome)
        stages = []
        for s in range(len(self.depths)):
            starts = [self.gene_of_block(s, b) for b in range(int(values[self.depth_gene(s)]))]
            stages.append(tuple(tuple(values[start : start + len(self.block_genes)]) for start in starts))
        extra = tuple((gene.name, values[i]) for i, gene in enumerate(self.extra_genes, 1))
        return Architecture(int(values[0]), tuple(stages), extra)

    def values(self, genome: Genomes) -> list[Value]:
        """(G,) genome to its G values: the choice at each gene's index."""
        return [gene.choices[int(index)] for gene, index in zip(self.genes, genome, strict=True)]

    def gene_values(self, arch: Architecture) -> list[Value]:
        """Per gene, its value in an architecture; its first choice where its block is not kept.

        The resolution need not be one of the space's: networks and costs are defined at any multiple of 4.

        Raises:
            ValueError: the architecture lies outside this space, or its resolution is no multiple of 4.
        """
        if arch.resolution < 4 or arch.resolution % 4:
            raise ValueError(f"resolution is {arch.resolution}; a multiple of 4 from 4 upwards is needed")
        genome = self.encode(arch.at(self.resolutions[0]))
        return [arch.resolution, *self.values(genome)[1:]]

    def id(self, arch: Architecture | Genomes) -> str:
        """16 hexadecimal digits that name a subnet of this space; equal subnets have equal ids."""
        genome = self.encode(arch) if isinstance(arch, Architecture) else self.canonical(arch)
        return hashlib.sha256(self.hash.encode() + genome.astype(np.int8).tobytes()).hexdigest()[:16]

    def largest(self) -> Architecture:
        """The last choice of every gene."""
        return self.decode((self.num_choices - 1).astype(np.int8))

    def smallest(self) -> Architecture:
        """The first choice of every gene."""
        return self.decode(np.zeros(self.num_genes, np.int8))

    # Operators: everything a cost is made of.

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The network as parts in the order in which they run.

        Raises:
            ValueError: two parts have the same name, so they would share weights.
        """
        parts = self.layout.parts(self)
        names = [part.name.replace(".", "_") for part in parts]  # as in a supernet's state dict
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{self.name}: more than one part is called {', '.join(twice)}; their names must differ")
        return parts

    def part_operators(self, arch: Architecture) -> Iterator[tuple[Part, Operators]]:
        """The kept parts of one architecture with their records, in the order in which they run.

        The resolution need not be one of the space's: costs are exact at any multiple of 4.

        Raises:
            ValueError: the architecture lies outside this space, or its resolution is no multiple of 4.
        """
        values = self.gene_values(arch)
        for part in self.parts:
            if records := part.records(values):
                yield part, records

    def operators(self, arch: Architecture) -> tuple[Operator, ...]:
        """Every operator that the architecture runs, in order."""
        return tuple(record for _, records in self.part_operators(arch) for record in flat(records))

    # JSON.

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict from which `families.space_from_json` makes an equal space."""
        fields = asdict(self)
        if not self.block_choices:
            del fields["block_choices"]  # so that spaces without it keep their hashes
        return cast(dict[str, Any], json.loads(json.dumps(fields)))

    @cached_property
    def hash(self) -> str:
        """64 hexadecimal digits: SHA-256 of the space's JSON. Files made for a space name it by this hash."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def _number(name: str, value: Any) -> Value:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        raise ValueError(f"{name} holds {value!r}; a number is needed, smaller than 2**53")
    return int(value) if value == int(value) else value


def _integer(name: str, value: Any) -> int:
    number = _number(name, value)
    if not isinstance(number, int):
        raise ValueError(f"{name} is {value!r}; a whole number is needed")
    return number
