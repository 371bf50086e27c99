"""Files are written where a path leads: links, devices and pipes stay what they are."""

import os
import threading
from pathlib import Path

import pytest

from supernet.files import write_atomically


def test_through_a_link_the_file_that_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("elsewhere/file")
    (tmp_path / "dangling").symlink_to("elsewhere/new")
    for name in ("link", "dangling"):
        write_atomically(tmp_path / name, b"new")
        assert (tmp_path / name).is_symlink()
    assert {path.name: path.read_bytes() for path in (tmp_path / "elsewhere").iterdir()} == {
        "file": b"new",
        "new": b"new",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "elsewhere", "link"]


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    write_atomically(tmp_path / "null", b"gone")
    assert (tmp_path / "null").is_symlink()
    assert Path("/dev/null").is_char_device()
    assert [path.name for path in tmp_path.iterdir()] == ["null"]


def test_a_pipe_takes_the_bytes(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_atomically(pipe, b"through the pipe")
    reader.join(10)
    assert received == [b"through the pipe"]
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("length", [40, 255])
def test_a_name_as_long_as_the_file_system_allows_can_be_written(length: int, tmp_path: Path) -> None:
    write_atomically(tmp_path / ("n" * length), b"whole")
    assert (tmp_path / ("n" * length)).read_bytes() == b"whole"
