"""Requests that the OpenAPI document shows. A test sends each of them."""

from fastapi.openapi.models import Example

EXAMPLES: dict[str, Example] = {
    "most_accurate": {
        "summary": "The most accurate network within limits on latency and FLOPs",
        "value": {"device": "phone", "max_latency_ms": 20, "max_flops": 300_000_000},
    },
    "confident": {
        "summary": "A latency that holds with 95 % confidence, and a limit on the file's size",
        "value": {
            "limits": [
                {"cost": "latency_ms", "device": "phone", "max": 20, "confidence": 0.95},
                {"cost": "model_bytes", "max": 8_000_000},
            ]
        },
    },
    "cheapest": {
        "summary": "The fewest FLOPs at which 90 % accuracy is predicted",
        "value": {"objective": "flops", "min_accuracy": 0.9},
    },
    "front": {
        "summary": "The whole Pareto front of accuracy against latency",
        "value": {"device": "phone", "objective": "pareto", "objectives": ["latency_ms"]},
    },
    "verified": {
        "summary": "Finalists extracted, scored on held-out images and measured, by a worker",
        "value": {"device": "phone", "max_latency_ms": 20, "verify": True},
    },
    "restricted": {
        "summary": "Only kernels that a device runs fast",
        "value": {"max_flops": 300_000_000, "choices": {"kernel_size": [3, 5]}},
    },
}
