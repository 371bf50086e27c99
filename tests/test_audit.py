"""The audit fails where a vulnerability is known, and says so where nothing could be audited."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "audit.py"
SOUND = {"name": "fastapi", "version": "1", "vulns": []}
FAULTY = {"name": "jinja2", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "torch", "version": "3", "skip_reason": "not found on PyPI"}


@pytest.mark.parametrize(
    ("packages", "code", "message"),
    [
        ([SOUND, UNKNOWN], 0, "1 of 2 packages audited, 0 known vulnerabilities"),
        ([SOUND, FAULTY], 1, "jinja2 2: PYSEC-1, fixed in 3"),
        ([UNKNOWN], 0, "audit skipped: the vulnerability service knows none of the 1 packages"),
        (None, 0, "audit skipped: the vulnerability service does not answer: could not connect"),
    ],
)
def test_what_the_audit_says(packages: list[object] | None, code: int, message: str, tmp_path: Path) -> None:
    (tmp_path / "pip_audit").mkdir()
    (tmp_path / "pip_audit" / "__init__.py").touch()
    text = None if packages is None else json.dumps({"dependencies": packages})
    program = f"import sys\ntext = {text!r}\nprint(text) if text else sys.exit('could not connect')"
    (tmp_path / "pip_audit" / "__main__.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, message in ran.stdout) == (code, True), ran.stdout + ran.stderr
