"""The worker process, with a handler for each kind of job. It loads torch; the API process does not."""

from typing import NoReturn

from service.context import Context
from service.exports.job import build_export
from service.finetunes.job import run_fine_tuning
from service.jobs import runner
from service.predictors.job import run_refit
from service.searches.job import run_search
from service.settings import Settings
from service.supernets.plans import build_plan
from service.threads import one_blas_thread

HANDLERS: dict[str, runner.Handler[Context]] = {
    "search": run_search,
    "export": build_export,
    "plan": build_plan,
    "finetune": run_fine_tuning,
    "refit_predictor": run_refit,
}


def run_worker(settings: Settings) -> NoReturn:
    """Run jobs until SIGTERM or SIGINT, then end this process. Raises the errors of `runner.run_worker`."""
    with one_blas_thread():
        runner.run_worker(Context(settings), HANDLERS)
