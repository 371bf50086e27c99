"""The ask/tell protocol between the search and its strategies; one strategy a file.

A strategy is made from (`Problem`, `np.random.Generator`). It may look at the problem's tables, limits and predictor,
but every score comes from the driver: it moves what is asked inside the limits, leaves out what was scored before, cuts
that to the budget, scores it, and counts each genome once, whichever strategy asked. A strategy that uses the predictor
in another way, such as through its gradient, counts that in `spent`.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from evolution.problem import Scores
from supernet.space import Genomes

State = Mapping[str, NDArray[Any]]


class SearchStrategy(Protocol):
    """Proposes architectures and learns from their scores.

    spent: predictions that the strategy made by itself, which count as evaluations too.
    """

    spent: int

    @property
    def per_ask(self) -> int:
        """The most of these that the next `ask` makes; it is not called where the budget has no room for them."""

    def ask(self) -> Genomes:
        """(N, G) genomes to score next; (0, G) when there is nothing left to propose."""

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Learn scores: of genomes asked, moved inside the limits and without those scored before, or of others."""

    def state(self) -> dict[str, NDArray[Any]]:
        """What `restore` needs, as arrays without objects. The random numbers' state is the driver's."""

    def restore(self, state: State) -> None:
        """Continue where `state` was taken."""
