#!/bin/sh
# What a container starts: `python -m` with the container's arguments. Numba uses compiled functions
# only from where it could also write them, which the image is not: they are put there first. On a
# processor of another kind they are compiled anew.
[ -d "$NUMBA_CACHE_DIR" ] || cp -R /opt/zapex/numba "$NUMBA_CACHE_DIR"
exec python -m "$@"
