"""Scores of a network whose logits are known, against numbers by hand and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, top_k_accuracy_score
from torch import nn

from supernet.evaluation.evaluate import evaluate
from supernet.evaluation.metrics import METRICS, from_fraction, to_fraction


def test_scores_by_hand() -> None:
    """The images are the logits. The true class is first, sixth, fifth and last of the classes by probability."""
    logits = torch.tensor(
        [[9.0, 1, 2, 3, 4, 5, 6], [9, 1, 8, 3, 7, 5, 6], [3, 9, 8, 7, 6, 1, 2], [0, 9, 8, 7, 6, 5, 4]]
    )
    labels = torch.tensor([0, 3, 0, 0])
    scored = evaluate(nn.Identity(), [(logits[:3], labels[:3]), (logits[3:], labels[3:])])
    assert (scored.accuracy, scored.top5, scored.images) == (1 / 4, 2 / 4, 4)
    by_class = [2 / 5, 0, 0]  # classes 0, 1, 3: one hit of 2 guesses and 3 labels; no hit of 2 and 0, of 0 and 1
    assert scored.f1_macro == pytest.approx(np.mean(by_class))
    probabilities = torch.softmax(logits, 1)[range(4), labels]
    assert scored.log_likelihood == pytest.approx(probabilities.log().mean().item(), abs=1e-6)
    assert to_fraction("log_likelihood", scored.log_likelihood) == pytest.approx(
        float(probabilities.prod()) ** (1 / 4), rel=1e-5
    )


@pytest.mark.parametrize("classes", [3, 10])
def test_scores_are_those_of_scikit_learn(classes: int) -> None:
    """Also where a class is never guessed, and another one has no image."""
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes - 1, 60)
    logits = rng.normal(0, 1, (60, classes)) + 2 * np.eye(classes)[labels]
    logits[:, 1] = -10.0
    batches = zip(np.split(logits, [7, 40]), np.split(labels, [7, 40]), strict=True)
    scored = evaluate(nn.Identity(), [(torch.tensor(x), torch.tensor(y)) for x, y in batches])
    assert scored.f1_macro == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"), rel=1e-12)
    top5 = top_k_accuracy_score(labels, logits, k=5, labels=range(classes)) if classes > 5 else 1.0
    assert scored.top5 == pytest.approx(top5)


@pytest.mark.parametrize("metric", METRICS)
def test_a_score_as_a_fraction_ranks_as_the_score_and_comes_back(metric: str) -> None:
    scores = [-7.5, -0.2, 0.0] if metric == "log_likelihood" else [0.0, 0.3, 1.0]
    fractions = [to_fraction(metric, score) for score in scores]  # type: ignore[arg-type]
    assert fractions == sorted(set(fractions))
    assert 0 <= fractions[0] <= fractions[-1] == 1
    back = [from_fraction(metric, fraction) for fraction in fractions]  # type: ignore[arg-type]
    assert back == pytest.approx(scores)
    assert from_fraction("log_likelihood", 0.0) == -math.inf
