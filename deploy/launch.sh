#!/usr/bin/env bash
# Trains an agent: makes the environment .venv if there is none, then runs
# `python -m deploy launch` with the arguments given. Without arguments: the preset cartpole.
# An extra of pyproject.toml can be added: ZAPEX_EXTRAS=box2d deploy/launch.sh --preset lunarlander
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/deploy/environment.sh"
prepare_environment "$root" "${ZAPEX_EXTRAS:-}"
# The run's clock begins here: what was installed is no part of it (common/process.py).
if [ -r /proc/uptime ]; then read -r ZAPEX_BEGAN_S _ </proc/uptime; export ZAPEX_BEGAN_S; fi
exec "$root/.venv/bin/python" -m deploy launch "$@"
