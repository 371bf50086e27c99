"""The ask/tell protocol between the search and its strategies; one strategy a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from evolution.elimination import Floats
from supernet.space import Genomes

State = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Scores:
    """What N genomes scored. fitness: (N,) higher is better. accuracy: (N,) predicted. costs: (N, C)."""

    fitness: Floats
    accuracy: Floats
    costs: Floats


class SearchStrategy(Protocol):
    """Proposes architectures and learns from their scores. It evaluates nothing and knows no limits."""

    def ask(self) -> Genomes:
        """(N, G) genomes to score next; (0, G) when there is nothing left to propose."""

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Learn scores: of genomes asked, moved inside the limits and without those scored before, or of others."""

    def state(self) -> dict[str, NDArray[Any]]:
        """What `restore` needs, as arrays without objects. The random numbers' state is the driver's."""

    def restore(self, state: State) -> None:
        """Continue where `state` was taken."""
