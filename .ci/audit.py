"""Known vulnerabilities of the versions in constraints.txt, by pip-audit.

Exit code 1 if there are any. Where the vulnerability service cannot be reached, or knows none of the packages, as a
mirror may, nothing was audited: it says "skipped" and exits with 0.
"""

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def main() -> int:
    """Run pip-audit and judge what it found."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip"]
    ran = subprocess.run(
        [*command, "--format", "json", "--progress-spinner", "off"], capture_output=True, text=True, check=False
    )
    try:
        packages = json.loads(ran.stdout)["dependencies"]
    except ValueError:
        reason = (ran.stderr.strip().splitlines() or ["pip-audit printed nothing"])[-1]
        print(f"audit skipped: the vulnerability service does not answer: {reason}")
        return 0
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        print(f"audit skipped: the vulnerability service knows none of the {len(packages)} packages")
        return 0
    found = [(package, fault) for package in audited for fault in package["vulns"]]
    for package, fault in found:
        fixed = ", ".join(fault["fix_versions"]) or "no version"
        print(f"{package['name']} {package['version']}: {fault['id']}, fixed in {fixed}")
    print(f"{len(audited)} of {len(packages)} packages audited, {len(found)} known vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
