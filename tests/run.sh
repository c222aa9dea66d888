#!/usr/bin/env bash
# All checks: ruff (lint and format), mypy, pytest. Further arguments go to pytest.
#   tests/run.sh                 what CI runs
#   tests/run.sh --slow          the minutes-long suites instead; those in a browser want Debian's
#                                chromium and chromium-driver, those of Slurm its daemons and munge,
#                                those of hosts openssh-server and root; each is skipped without
#   tests/run.sh tests/unit -k tree
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source deploy/environment.sh
extras=test,atari,box2d,minatar,minigrid,watch,dashboard
marker="not slow"
if [ "${1:-}" = --slow ]; then
  marker="slow" extras="$extras,browser,ray,wandb"
  shift
fi
prepare_environment "$root" "$extras"
bin="$root/.venv/bin"
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
exec "$bin/python" -m pytest -m "$marker" "$@"
