#!/usr/bin/env bash
# All checks: ruff (lint and format), mypy, known vulnerabilities, pytest. Further arguments go to pytest.
#   tests/run.sh                 what CI runs
#   tests/run.sh --slow          the minutes-long suites instead; those in a browser want Debian's
#                                chromium and chromium-driver, those of Slurm its daemons and munge,
#                                those of hosts openssh-server and root; each is skipped without
#   tests/network, in both, wants root, iproute2 and iptables, and is skipped without
#   tests/run.sh --docker        runs in real containers; wants a Docker engine, or root and dockerd
#   tests/run.sh tests/unit -k tree
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source deploy/environment.sh
extras=audit,test,atari,box2d,k8s,minatar,minigrid,watch,dashboard
marker="not slow and not docker"
# Two workers, each with whole files, those with whole runs first: the many short ones come last, so
# that both have something to do to the end.
workers=(-n 2 --dist loadfile --no-loadscope-reorder)
if [ "${1:-}" = --slow ]; then
  marker="slow or envpool" extras="$extras,browser,envpool,ray,wandb" workers=()
  shift
elif [ "${1:-}" = --docker ]; then
  marker="docker" workers=()
  shift
fi
prepare_environment "$root" "$extras"
bin="$root/.venv/bin"
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/python" -m tests.audit
exec "$bin/python" -m pytest "${workers[@]}" -m "$marker" "$@"
