"""Measured pairs as a file: architectures, their accuracies, and what they were measured on."""

import io
import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from supernet.space import Genomes, SearchSpace


@dataclass(frozen=True, eq=False)
class MeasuredPairs:
    """N architectures and what they score on held-out images.

    genomes: (N, G). accuracy: (N,) fractions. log_likelihood: (N,) means over the images.
    """

    space: SearchSpace
    genomes: Genomes
    accuracy: Floats
    log_likelihood: Floats

    def __len__(self) -> int:
        return len(self.genomes)

    def __getitem__(self, rows: slice | NDArray[np.bool_] | NDArray[np.intp]) -> Self:
        return replace(
            self, genomes=self.genomes[rows], accuracy=self.accuracy[rows], log_likelihood=self.log_likelihood[rows]
        )

    def __add__(self, other: Self) -> Self:
        return replace(
            self,
            genomes=np.concatenate([self.genomes, other.genomes]),
            accuracy=np.concatenate([self.accuracy, other.accuracy]),
            log_likelihood=np.concatenate([self.log_likelihood, other.log_likelihood]),
        )

    def without(self, other: Self) -> Self:
        """The pairs whose architecture is none of the other pairs'."""
        known = {genome.tobytes() for genome in other.genomes}
        return self[np.array([genome.tobytes() not in known for genome in self.genomes], bool)]

    def to_bytes(self) -> bytes:
        """The pairs as an npz file without pickles."""
        buffer = io.BytesIO()
        meta = np.array(json.dumps({"space": self.space.hash}))
        np.savez_compressed(
            buffer,
            allow_pickle=False,
            meta=meta,
            genomes=self.genomes,
            accuracy=self.accuracy,
            log_likelihood=self.log_likelihood,
        )
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path | str, space: SearchSpace) -> Self:
        """Read a file of `to_bytes`.

        Raises:
            ValueError: not such a file, or the pairs of another space.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                owner = str(json.loads(str(file["meta"]))["space"])
                pairs = cls(space, *(np.array(file[name]) for name in ("genomes", "accuracy", "log_likelihood")))
        except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not a file of measured pairs: {error}") from error
        if owner != space.hash:
            raise ValueError(f"{path} has pairs of the space {owner[:16]}, not {space.hash[:16]}")
        shapes = pairs.genomes.shape, pairs.accuracy.shape, pairs.log_likelihood.shape
        if shapes != ((len(pairs), space.num_genes), (len(pairs),), (len(pairs),)):
            raise ValueError(f"{path} has arrays of the shapes {shapes}, which are no pairs of this space")
        return pairs
