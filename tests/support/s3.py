"""An S3 server of its own for tests: moto's, in a process of its own."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from unittest import mock

import fsspec
import httpx2
import pytest

from service.processes import free_port
from tests.support.waiting import wait

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", int(sys.argv[1]), verbose=False)
server.start()
sys.stdin.read()
"""


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a bucket. The environment says where the server is and who its clients are."""
    missing = [name for name in ("s3fs", "moto", "flask_cors") if find_spec(name) is None]
    if missing:
        if os.environ.get("SUPPLE_TEST_REQUIRE_S3") == "1":
            pytest.fail(f"{', '.join(missing)} not installed, and SUPPLE_TEST_REQUIRE_S3 is 1")
        pytest.skip(f"{', '.join(missing)} not installed; they are in the extra dev")
    port = free_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }
    with (
        mock.patch.dict(os.environ, environment),
        subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stdin=subprocess.PIPE) as server,
    ):

        def answers() -> bool:
            assert server.poll() is None, "the S3 server ended"
            try:
                return httpx2.get(environment["AWS_ENDPOINT_URL"]).status_code < 500
            except httpx2.TransportError:
                return False

        try:
            wait(answers, "the S3 server")
            bucket = f"supple-{uuid.uuid4().hex}"
            fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
            yield f"s3://{bucket}"
        finally:
            server.terminate()
