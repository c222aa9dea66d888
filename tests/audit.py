"""`python -m tests.audit`: does any installed package have a known vulnerability?

Asks PyPI's advisory database through pip-audit. Where that cannot be reached, one line says that
nothing was audited, and the exit code is 0: a CI without network goes on, and nobody is told that
all is well.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from importlib import metadata
from typing import Any

LIMIT_S = 180.0
ACCEPTED: dict[str, str] = {}
"""Advisories that do not concern us: their ids, and why not."""


def verdict(found: dict[str, Any]) -> tuple[list[str], int]:
    """Lines to print and the exit code, of what pip-audit found (its JSON)."""
    packages = found["dependencies"]
    audited = [package for package in packages if "vulns" in package]
    if not audited:
        return [skipped("the advisory service cannot be reached, or knows no package")], 0
    lines, bad = [], 0
    for package in audited:
        for vulnerability in package["vulns"]:
            known_as = {vulnerability["id"], *vulnerability.get("aliases", [])}
            reasons = [ACCEPTED[name] for name in sorted(known_as) if name in ACCEPTED]
            fixed = ", ".join(vulnerability.get("fix_versions", [])) or "no version yet"
            lines.append(
                f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}"
                + (f" (accepted: {reasons[0]})" if reasons else "")
            )
            bad += not reasons
    left_out = len(packages) - len(audited)
    lines.append(
        f"audit: {len(audited)} packages, {bad} known vulnerabilities"
        + (f"; {left_out} packages are not known to the advisory service" if left_out else "")
    )
    return lines, int(bad > 0)


def skipped(why: str) -> str:
    return f"audit: skipped, nothing was audited: {why}"


def ask(*words: str) -> dict[str, Any] | str:
    """What pip-audit found, or why it did not."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            [*command, *words], capture_output=True, text=True, timeout=LIMIT_S
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return f"no answer in {LIMIT_S:.0f} s"
    except json.JSONDecodeError:
        return (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
    return found


def main() -> int:
    if importlib.util.find_spec("pip_audit") is None:
        print(skipped("pip install 'zapex[audit]'"))
        return 0
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as one:
        # One first: where nobody answers, asking for all of them takes minutes.
        one.write(f"numpy=={metadata.version('numpy')}\n")
        one.flush()
        found = ask("--requirement", one.name, "--no-deps", "--disable-pip")
    if not isinstance(found, str) and any("vulns" in p for p in found["dependencies"]):
        found = ask("--skip-editable", "--local")
    if isinstance(found, str):
        print(skipped(found))
        return 0
    lines, code = verdict(found)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
