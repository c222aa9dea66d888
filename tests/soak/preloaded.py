"""Imported by the process that the soak's roles are forked from."""

from tests.soak.tap import install

install()
