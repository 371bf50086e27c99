"""The random streams that a seed is split into. numpy only."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What random numbers are for. Streams of one seed are independent; a number must never change its meaning."""

    TEST_SPLIT = 0  # which images become the test split of a source without one
    HOLDOUT = 1  # which training images are held out
    SUBNETS = 2  # the subnets of a training step
    IMAGE_ORDER = 3  # the order of the training images in an epoch
    AUGMENTATION = 4  # the random changes to a batch
    PREDICTOR = 5  # the subnets that the accuracy predictor is fitted on, and its fit
    RANKED_SUBNETS = 6  # the subnets that `supple rank` trains alone
    BOOTSTRAP = 7  # the resampling behind `supple rank`'s confidence intervals
    MIXING = 8  # mixup and cutmix of a micro-batch
    DROPOUT = 9  # dropout and stochastic depth in a forward pass


def random_generator(seed: int, stream: Stream, *position: int) -> np.random.Generator:
    """The generator of one stream of a seed; `position` numbers the generators within the stream."""
    return np.random.default_rng([seed, stream, *position])
