"""No document puts a secret among a command's arguments, which everybody on its host can read."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECRET = re.compile(r"\$\([^)]*\.(key|token)\)")
ASSIGNED = re.compile(r'^\s*[A-Z_]+="\$\([^)]*\)" ')
"""A variable for the command that follows: its environment is for its owner's eyes."""


def test_commands_in_documents_keep_secrets_out_of_their_arguments() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    shown = [
        f"{page.relative_to(ROOT)}:{number}: {line.strip()}"
        for page in pages
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if SECRET.search(ASSIGNED.sub("", line))
    ]
    assert shown == []
