# Sourced by deploy/launch.sh and tests/run.sh.

# prepare_environment ROOT EXTRAS: a virtual environment in ROOT/.venv with the project and its
# extras (comma-separated, may be empty) installed. Does nothing when that is so already.
prepare_environment() {
  local root=$1 extras=$2 python=${PYTHON:-python3} stamp installed wanted
  stamp="$root/.venv/installed-extras"
  # pip comes last into an environment: one that was interrupted before has none.
  if [ ! -x "$root/.venv/bin/python" ] ||
    { [ ! -f "$stamp" ] && ! "$root/.venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
      echo "error: zapex needs Python 3.11 or newer as $python (or name another: PYTHON=python3.12 $0)" >&2
      return 2
    }
    echo "making a virtual environment in $root/.venv" >&2
    "$python" -m venv "$root/.venv"
  fi
  # Extras that were installed once stay: launch.sh after run.sh must not reinstall anything.
  installed=$(sed -n 1p "$stamp" 2>/dev/null || true)
  wanted=$(printf '%s,%s' "$installed" "$extras" | tr ',' '\n' | sed '/^$/d' | sort -u | paste -sd, -)
  if [ -f "$stamp" ] && [ "$wanted" = "$installed" ] &&
    [ ! "$root/pyproject.toml" -nt "$stamp" ] && [ ! "$root/deploy/constraints.txt" -nt "$stamp" ]; then
    return 0
  fi
  echo "installing zapex${wanted:+ with $wanted} (a minute or two, once)" >&2
  "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$root/deploy/constraints.txt" --editable "$root${wanted:+[$wanted]}" >&2 || {
    echo "error: the installation failed: see the lines above (network, disk space, Python version)" >&2
    return 2
  }
  printf '%s\n' "$wanted" >"$stamp"
}
