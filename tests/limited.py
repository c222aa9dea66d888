"""`python -m tests.limited nofile=80 learner …`: a module's program with less of a resource."""

import resource
import runpy
import sys

LIMITS = {"nofile": resource.RLIMIT_NOFILE, "fsize": resource.RLIMIT_FSIZE}

if __name__ == "__main__":
    limit, module = sys.argv[1:3]
    name, _, value = limit.partition("=")
    resource.setrlimit(LIMITS[name], (int(value), int(value)))
    del sys.argv[1:3]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
