"""What the audit makes of pip-audit's answers. Nobody is asked here."""

import subprocess
from typing import Any

import pytest

from tests import audit

FINE = {"name": "numpy", "version": "2.0.0", "vulns": []}
BAD = {
    "name": "msgpack",
    "version": "0.1",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["0.2"]}],
}
UNKNOWN = {"name": "zapex", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("packages", "code", "last"),
    [
        ([FINE], 0, "audit: 1 packages, 0 known vulnerabilities"),
        ([FINE, BAD], 1, "audit: 2 packages, 1 known vulnerabilities"),
        (
            [FINE, UNKNOWN],
            0,
            (
                "audit: 1 packages, 0 known vulnerabilities; 1 packages are not known to the "
                "advisory service"
            ),
        ),
        # All is well is never said of what was not looked at.
        (
            [UNKNOWN, UNKNOWN],
            0,
            (
                "audit: skipped, nothing was audited: the advisory service cannot be reached, or "
                "knows no package"
            ),
        ),
    ],
)
def test_verdicts(packages: list[dict[str, Any]], code: int, last: str) -> None:
    lines, exit_code = audit.verdict({"dependencies": packages})
    assert (lines[-1], exit_code) == (last, code)


def test_a_vulnerability_is_named_with_its_remedy_and_may_be_accepted_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert audit.verdict({"dependencies": [BAD]})[0][0] == "msgpack 0.1: PYSEC-1, fixed in 0.2"
    monkeypatch.setitem(audit.ACCEPTED, "CVE-1", "we do not use it")
    lines, code = audit.verdict({"dependencies": [BAD]})
    assert lines[0].endswith("(accepted: we do not use it)")
    assert code == 0


def test_without_network_one_line_says_that_nothing_was_audited(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, "", "warning\nno route to host\n")

    monkeypatch.setattr(audit.subprocess, "run", unreachable)
    monkeypatch.setattr(audit.importlib.util, "find_spec", lambda _: True)
    assert audit.main() == 0
    assert capsys.readouterr().out == "audit: skipped, nothing was audited: no route to host\n"
