"""What the stored searches and candidates say, for Prometheus."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from sqlalchemy.orm import Session

from service.searches import queries


def search_metrics(session: Session) -> Iterator[Metric]:
    """Searches by status, the evaluations and seconds that they took, and the subnets measured on held-out images."""
    searches = GaugeMetricFamily("supple_searches", "Searches by status.", labels=("status",))
    evaluations = CounterMetricFamily("supple_search_evaluations", "Architectures that searches evaluated.")
    seconds = CounterMetricFamily("supple_search_seconds", "Time that searches took, without verification.")
    totals = queries.totals(session)
    for status, (count, _, _) in totals.items():
        searches.add_metric((status,), count)
    evaluations.add_metric((), sum(evaluated for _, evaluated, _ in totals.values()))
    seconds.add_metric((), sum(elapsed_ms for _, _, elapsed_ms in totals.values()) / 1e3)
    verified = CounterMetricFamily("supple_subnets_verified", "Subnets that were scored on held-out images.")
    verified.add_metric((), queries.count_verified(session))
    yield from (searches, evaluations, seconds, verified)
