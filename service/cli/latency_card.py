"""A latency model's card in words."""

from collections.abc import Mapping
from typing import Any

from service.costs import cost_kind


def latency_card(card: Mapping[str, Any]) -> str:
    """How far predictions are off and how that is known; of whole networks alone, what further ones would buy."""
    lines = [_error("error", card) + f": {card['validation']}"]
    if second := card.get("second_run"):
        lines.append(f"{_error('within the first run', card['first_run'])}; {_error('in the second', second)}")
    for name, beside in card.get("beside", {}).items():
        label = cost_kind(name).label
        lines.append(
            f"limits on {label} are refused: {beside['refused']}" if beside["refused"] else _error(label, beside)
        )
    if known := card.get("known_devices"):
        lines.append(
            "known devices, by similarity: " + ", ".join(f"{name} {value:.2f}" for name, value in known.items())
        )
    if curve := card.get("learning_curve"):
        lines.append("networks and error: " + ", ".join(f"{size}: {error:.1f} %" for size, error in curve.items()))
    if more := card.get("more_networks"):
        lines.append(
            f"one more network would take about {more['one_more_gains_points']:.2g} points away, and twice as many "
            f"would bring {more['error_with_twice_as_many']:.1f} % instead of {more['error_expected']:.1f} %"
        )
    return "\n".join(lines)


def _error(name: str, card: Mapping[str, Any]) -> str:
    bias = f", bias {card['bias_percent']:+.1f} %" if "bias_percent" in card else ""
    tau = "none" if card["kendall_tau"] is None else f"{card['kendall_tau']:.2f}"
    return f"{name} {card['mean_absolute_percentage_error']:.1f} %{bias}, Kendall tau {tau}"
