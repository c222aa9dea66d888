#!/bin/sh
# What a container starts: `python -m` with the container's arguments. Numba uses compiled functions
# only from where it could also write them, which the image is not: they are put there first. On a
# processor of another kind they are compiled anew.
[ -d "$NUMBA_CACHE_DIR" ] || cp -R /opt/zapex/numba "$NUMBA_CACHE_DIR"
# The head makes the run's keys when it starts first; the others wait for theirs.
while [ "$1" != deploy ] && [ -n "$ZAPEX_KEYS" ] && [ ! -e "$ZAPEX_KEYS" ]; do sleep 0.2; done
exec python -m "$@"
