"""`python -m tests.fuzz`: bytes for the decoder, and lies for what is behind it.

Inputs come in chunks whose seeds are made of the run's and their number, so the same inputs are
tried whatever the number of processes. Ends with 1 if there is a finding; each leaves a file that
`--reproduce` takes.
"""

import argparse
import multiprocessing
import runpy
import sys
import time
from functools import partial
from pathlib import Path

from tests.fuzz.behind import TARGETS
from tests.fuzz.chunk import CHUNK, LIES_PER_CHUNK, fuzz_chunk
from tests.fuzz.decoder import Tally, decoded


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--reproducers", type=Path, default=Path("findings"))
    parser.add_argument("--reproduce", type=Path, metavar="FILE", help="decode a finding's frames")
    options = parser.parse_args()
    if options.reproduce is not None:
        print(decoded(runpy.run_path(str(options.reproduce))["FRAMES"]))
        return 0
    chunks = max(-(-options.inputs // CHUNK), 1)
    run = partial(fuzz_chunk, options.seed, options.reproducers, -(-options.inputs // chunks))
    total, since_s = Tally(), time.monotonic()
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for done, tally in enumerate(pool.imap_unordered(run, range(chunks)), 1):
            total.add(tally)
            if sys.stderr.isatty():
                print(f"\r{total.inputs:,} inputs, {done}/{chunks}", end="", file=sys.stderr)
    elapsed_s = time.monotonic() - since_s
    rate = total.inputs / elapsed_s
    print(f"{total.inputs:,} inputs to the decoder in {elapsed_s:.0f} s, {rate:,.0f}/s in")
    print(f"{options.processes} processes, seed {options.seed}")
    print(f"{chunks * LIES_PER_CHUNK:,} lies to each of {len(TARGETS)} targets behind it")
    print(f"{total.messages:,} decoded; rejected by reason:")
    for reason, count in total.rejected.most_common():
        print(f"  {reason:<16}{count:>14,}")
    print(f"{len(total.answers)} different answers, {len(total.findings)} findings")
    for finding in total.findings[:20]:
        print(finding)
    return 1 if total.findings else 0


if __name__ == "__main__":
    sys.exit(main())
