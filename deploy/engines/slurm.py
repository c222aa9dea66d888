"""Slurm: one heterogeneous job, a node for the head and cores anywhere for the actors.

What is submitted is a script that can be read, changed and submitted again by hand:
`RUN_DIR/slurm/job.sh`.
"""

import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from common.config import Config
from common.errors import ConfigError
from common.security import Security
from deploy.engines.options import Placing, check_reachable
from deploy.topology import Resources, actor_words, groups, head_words, security_words

WARNING_S = 120
"""So long before its time limit the job is told."""
_BIND = "tcp://0.0.0.0:$port"
_SCRIPT = """\
#!/bin/bash
# Written by `python -m deploy launch --engine slurm`. To run it again: sbatch {script}
# It goes on with the run in {run_dir}, or begins it.
#SBATCH --job-name={job_name}
#SBATCH --output="{output}"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@{warning_s}
# The head: {head_roles}.
#SBATCH --nodes=1 --ntasks=1 {head_needs}
{head_options}#SBATCH hetjob
# The actors, wherever there are cores.
#SBATCH --ntasks={actors} --no-kill {actor_needs}
{actor_options}
cd {directory} || exit
{environment}port={port}
head=tcp://$(hostname):$port

# The head runs in this script and not as a step of the job, so that signals reach it as they are.
{head_command} &
head_pid=$!
srun --het-group=1 --kill-on-bad-exit=0 --label {actor_command} &
actors_pid=$!

# The time limit is near: write a checkpoint and queue again. The job is cancelled, or has to make
# room: write a checkpoint; Slurm knows what comes then.
again=
trap 'again=yes; kill -TERM $head_pid 2>/dev/null' USR1
trap 'kill -TERM $head_pid 2>/dev/null' TERM
wait $head_pid
code=$?
while kill -0 $head_pid 2>/dev/null; do
  wait $head_pid
  code=$?
done
# The head has told its actors to end; one that could not has left them waiting for it.
for _ in {{1..20}}; do
  kill -0 $actors_pid 2>/dev/null || break
  sleep 1
done
kill $actors_pid 2>/dev/null
wait
if [ "$again" ]; then
  scontrol requeue "$SLURM_JOB_ID"
  sleep 60 # Slurm ends this script.
fi
exit $code
"""


def submit(
    options: Placing,
    config: Config,
    run_dir: Path,
    bind: str,
    security: Security,
    keys: Path | None,
) -> int:
    """Write the job's script, hand it to Slurm, and say how to follow the run. Returns 0.

    Args:
        bind: where the head is to listen; port 0: one that the job's number makes.
        keys: the run's key directory, which all nodes see; None: as the environment says.

    Raises ConfigError when Slurm is not there or refuses the job, with its reason.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError("--engine slurm: there is no sbatch here: run this on a login node")
    check_reachable(options, security)
    directory = run_dir.resolve() / "slurm"
    directory.mkdir(exist_ok=True)
    script = directory / "job.sh"
    script.write_text(job_script(options, config, run_dir.resolve(), bind, security, keys))
    # Without asking first, a job that no node can ever hold would wait for ever.
    _sbatch("--test-only", str(script))
    job = _sbatch("--parsable", str(script)).strip().partition(";")[0]
    print(f"submitted {script} as job {job}")
    print(f"  squeue --job {job}")
    print(f"  tail -F {directory}/{job}.out")
    print(f"  python -m deploy status $(cat {run_dir}/head)    # once it runs")
    print(f"  scancel {job}    # stops it; sbatch {script} goes on", flush=True)
    return 0


def _sbatch(*words: str) -> str:
    answer = subprocess.run(["sbatch", *words], capture_output=True, text=True, check=False)
    if answer.returncode:
        reason = " ".join(answer.stderr.split()).removeprefix("sbatch: error: ")
        raise ConfigError(
            f"Slurm does not take {words[-1]}: {reason}: see its resources, and change them with "
            "--actors, --head-cores, --head-gpus or --sbatch"
        )
    return answer.stdout


def job_script(
    options: Placing,
    config: Config,
    run_dir: Path,
    bind: str,
    security: Security,
    keys: Path | None = None,
) -> str:
    """The text of the job's script. Nothing but names and numbers of the run goes into it.

    Args:
        run_dir: absolute; every node sees it.
    """
    head, actors = groups(config, head_cores=options.head_cores, head_gpus=options.head_gpus)
    port, path = urlsplit(bind).port, os.environ.get("PYTHONPATH")
    python = [sys.executable, "-m"]
    head_keys = security_words(keys, insecure=security.insecure)
    return _SCRIPT.format(
        script=run_dir / "slurm" / "job.sh",
        run_dir=run_dir,
        job_name=re.sub(r"[^A-Za-z0-9_.-]+", "-", f"zapex-{run_dir.name}"),
        output=run_dir / "slurm" / "%j.out",
        warning_s=WARNING_S,
        head_roles=", ".join(head.roles),
        head_needs=_resources(head.needs),
        head_options=_options(options.sbatch, options.sbatch_head),
        actors=actors.count,
        actor_needs=_resources(actors.needs),
        actor_options=_options(options.sbatch, options.sbatch_actors),
        directory=shlex.quote(str(Path.cwd())),
        environment=f"export PYTHONPATH={shlex.quote(path)}\n" if path else "",
        # Of two jobs that meet on one node, one should not find the other's port taken.
        port=port or "$((20000 + SLURM_JOB_ID * 4 % 20000))",
        head_command=_shell([*python, *head_words(run_dir, _BIND), *head_keys]),
        actor_command=_shell([*python, *actor_words("$head"), *security_words(keys)]),
    )


def _resources(needs: Resources) -> str:
    """sbatch's options for one task."""
    # A heterogeneous job has its memory by node or by core throughout; actors are counted in cores.
    memory_mb = math.ceil(1_000 * needs.memory_gb / needs.cores)
    gpus = f" --gres=gpu:{needs.gpus}" if needs.gpus else ""
    return f"--cpus-per-task={needs.cores} --mem-per-cpu={memory_mb}M{gpus}"


def _options(*lines: str) -> str:
    return "".join(f"#SBATCH {line}\n" for line in lines if line)


def _shell(words: list[str]) -> str:
    """For a shell, which replaces $head and $port alone."""
    return " ".join(f'"{w}"' if w in (_BIND, "$head") else shlex.quote(w) for w in words)
