"""Write the OpenAPI document: `python docs/write_openapi.py FILE`. `make openapi` writes docs/openapi.json."""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from service.app import assemble_app
from service.context import Context
from service.settings import Settings


def openapi_text() -> str:
    """The document as the file holds it, whatever this machine's settings are."""
    with TemporaryDirectory() as directory:
        context = Context(Settings(data_directory=Path(directory), database_url="", store="", root_path=""))
        document = assemble_app(context).openapi()
        context.close()
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(openapi_text(), "utf-8")
