"""Whether a device's numbers still hold: not if its probe now has another runtime than they were measured with."""

from service.storage.tables import Device, LatencyModelRow


def warn_if_stale(device: Device, model: LatencyModelRow) -> str | None:
    """A warning if the device's probe has another runtime than its latency model was measured with; else None."""
    measured, newest = model.host.get("runtime"), (device.seen_host or {}).get("runtime")
    if not measured or not newest or measured == newest:
        return None
    return (
        f"the latencies of {device.name} are stale: they were measured with {measured}, and its probe now has "
        f"{newest}; measure its plan again"
    )
