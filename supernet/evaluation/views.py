"""How held-out images are perturbed. A module apart from `evaluate`, so that opening a bundle loads no torch."""

from dataclasses import dataclass

from supernet.checks import FORBID_EXTRA, require


@dataclass(frozen=True, slots=True)
class Views:
    """How held-out images are perturbed. count: perturbed copies of each image; 0 leaves the images unchanged."""

    count: int = 0
    seed: int = 0

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        require("views.count", self.count, 0, 1_000)
        require("views.seed", self.seed, 0)
