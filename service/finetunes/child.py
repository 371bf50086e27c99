"""The process that trains for a fine-tuning's job: `python -m service.finetunes.child JSON`.

Training lets the C library keep freed memory, which would disturb a worker's latency measurements, and it starts
processes that decode images; so it has a process of its own. It prints a JSON object in each line: progress, or the
problem that ended it. It ends when its parent does.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from service.bundles.finetune import Plan, fine_tune
from service.errors import problem_document_of
from service.processes import end_with_parent
from supernet.bundle import Bundle
from supernet.space import Architecture


def main() -> int:
    """Train as the only argument says; 1 after an error."""
    end_with_parent()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    job: dict[str, Any] = json.loads(sys.argv[1])
    folder = Path(job["folder"])
    try:
        fine_tune(
            Bundle.open(Path(job["bundle"])),
            Architecture.from_json(job["arch"]),
            Plan(**job["plan"]),
            folder,
            images=job["images"],
            data_root=folder.parent,
            progress=lambda stage, done, total, remark: _print(stage=stage, done=done, total=total, detail=remark),
        )
    except Exception as error:
        logging.getLogger("supple.finetune").exception("fine-tuning in %s failed", folder)
        problem = problem_document_of(error)
        for path, words in ((job["images"], "the registered images"), (job["bundle"], "the bundle"), (str(folder), "")):
            problem["detail"] = problem["detail"].replace(path or "\0", words)  # callers are not shown paths
        _print(problem=problem)
        return 1
    return 0


def _print(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    sys.exit(main())
