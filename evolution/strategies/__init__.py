"""The ask/tell protocol between the search and its strategies; one strategy a file.

A strategy is made from (`Problem`, `np.random.Generator`). It may use the problem's tables, limits and predictor, but
every score comes from the driver. The driver takes the genomes of an `ask` and

1. moves them inside the limits,
2. drops genomes that were scored before, and those beyond the number of evaluations left,
3. scores the rest, counts each genome once, and tells the strategy.

A strategy that uses the predictor itself, such as through its gradient, counts that in `own_predictions`.

A `ProvingStrategy` bounds how good any architecture can be. The driver asks it before it scores anything else. A
`RestartingStrategy` says when its restarts agree. The driver then asks no more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from evolution.problem import Scores
from supernet.space import Genomes

State = Mapping[str, NDArray[Any]]


class SearchStrategy(Protocol):
    """Proposes architectures and learns from their scores.

    own_predictions: predictions that the strategy has made itself; they count as evaluations too.
    """

    own_predictions: int

    @property
    def own_predictions_per_ask(self) -> int:
        """The most that the next `ask` makes itself. Without that many evaluations left, `ask` is not called."""

    def ask(self) -> Genomes:
        """(N, G) genomes to score next; (0, G) when there is nothing left to propose."""

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Learn scores, of genomes of the last `ask` as the driver changed them, or of other genomes."""

    def state(self) -> dict[str, NDArray[Any]]:
        """What `restore` needs, as arrays without objects. The driver saves the random generator's state."""

    def restore(self, state: State) -> None:
        """Continue from where `state` was saved."""


@dataclass(frozen=True, slots=True)
class Optimality:
    """A certificate: how good an answer is beside the best that could be, for the predictor and not in truth.

    bound: no architecture within the limits has a higher predicted accuracy, or a lower minimised cost, or no front a
        larger hypervolume; up to rounding.
    gap: the distance of the answer from the bound. proven: whether it is 0, so that the answer is optimal.
    """

    proven: bool
    bound: float
    gap: float


@runtime_checkable
class ProvingStrategy(SearchStrategy, Protocol):
    """A strategy that knows how good an answer is."""

    def certify(self, scores: Scores) -> Optimality | None:
        """The certificate of the best of all scored genomes, or of their front; None if nothing is known."""


@runtime_checkable
class RestartingStrategy(SearchStrategy, Protocol):
    """A strategy that starts again and again and compares where that ends."""

    @property
    def agrees(self) -> bool:
        """Whether its restarts agree on the best architecture, so that more of them would hardly find a better one."""
