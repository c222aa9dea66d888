"""What is wrong is said in one line that says what to do, with the documented exit code."""

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from common.process import run_main
from deploy.evaluate import evaluate
from deploy.launch import launch
from replay_server.placement import available_memory
from tests.faulty import FAULTY
from tests.integration.conftest import Start
from tests.integration.runs import Command, own_logging, write_preset

CONFIGURATION, EXPLAINED, ENVIRONMENT, ADDRESS, DIRECTORY = 2, 3, 4, 6, 7
"""Exit codes of `common.errors`."""
OURS = "tests.integration.environments:"
Case = tuple[str, int, Sequence[str]]
"""Options, exit code, and what the line must say."""


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def error_of(command: Command) -> str:
    """The last line of the output, which alone says that something is wrong."""
    assert command.nothing_left()
    output = command.output()
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert output.splitlines()[-1] == line
    return line


REFUSED_AT_ONCE: Sequence[Case] = (
    ("--preset cartpol", CONFIGURATION, ["no preset 'cartpol'", "did you mean cartpole?"]),
    ("--preset nowhere.toml", CONFIGURATION, ["no preset 'nowhere.toml'"]),
    ("--preset unknown.toml", CONFIGURATION, ["'lerning_rate'", "did you mean learning_rate?"]),
    ("--preset broken.toml", CONFIGURATION, ["broken.toml is not TOML", "line 1"]),
    (
        "--preset wrong.toml",
        CONFIGURATION,
        ["wrong.toml: n_step = 0", "greater than or equal to 1"],
    ),
    ("--learning-rate -1", CONFIGURATION, ["learning_rate = -1.0", "greater than 0"]),
    ("--batch-size 512 --replay-capacity 256", CONFIGURATION, ["batch_size = 512", "= 256"]),
    (
        "--samples-per-insert-tolerance 1",
        CONFIGURATION,
        ["samples_per_insert_tolerance = 1", "at least half of batch_size"],
    ),
    ("--metrics-port 9000 --run-dir new", CONFIGURATION, ["--metrics-port: --in-process is one"]),
    ("--resume nowhere", DIRECTORY, ["nowhere holds no run"]),
    ("--resume no-run", DIRECTORY, ["no-run holds no run"]),
    ("--resume run --preset cartpole", CONFIGURATION, ["drop --preset"]),
    # A directory cannot lie below a file, whoever asks (root may write anywhere else).
    ("--run-dir broken.toml/run", DIRECTORY, ["cannot write to broken.toml/run", "another"]),
    ("--run-dir broken.toml", DIRECTORY, ["broken.toml is a file", "choose another --run-dir"]),
    ("--run-dir run", DIRECTORY, ["run holds a run", "--resume run", "--overwrite", "--run-dir"]),
    # A file of somebody else's that only has the name of one of ours.
    ("--run-dir mine", DIRECTORY, ["--overwrite", "choose another --run-dir"]),
)


@pytest.mark.parametrize(
    ("words", "exit_code", "fragments"), REFUSED_AT_ONCE, ids=[case[0] for case in REFUSED_AT_ONCE]
)
def test_impossible_command_lines_are_refused_before_anything_starts(
    start: Start, tmp_path: Path, words: str, exit_code: int, fragments: Sequence[str]
) -> None:
    (tmp_path / "unknown.toml").write_text("lerning_rate = 1e-3\n")
    (tmp_path / "broken.toml").write_text("env = \n")
    (tmp_path / "wrong.toml").write_text("n_step = 0\n")
    for directory in ("no-run", "mine", "run/checkpoints"):
        (tmp_path / directory).mkdir(parents=True)
    for file in ("mine/config.toml", "run/config.toml"):
        write_preset(tmp_path / file)
    (tmp_path / "run" / "checkpoints" / "00000050.safetensors").touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    # In threads, so that no processes are made ready which nobody will need.
    command = start("deploy", "launch", "--in-process", *words.split())
    assert command.wait() == exit_code
    line = error_of(command)
    for fragment in fragments:
        assert fragment in line
    assert not (tmp_path / "runs").exists()
    assert {path: path.read_bytes() for path in before} == before


REFUSED_BY_A_PROCESS: Sequence[Case] = (
    (
        "--env PongNoFrameskip-v4",
        ENVIRONMENT,
        ["unknown environment 'PongNoFrameskip-v4'", "ALE/Pong-v5 (--preset atari)?", "frameskip"],
    ),
    (
        f"--env {FAULTY}",
        ENVIRONMENT,
        [f"actor-0: {FAULTY} raised in reset: RuntimeError: the simulator has no licence"],
    ),
    ("--bind tcp://127.0.0.1:BUSY", ADDRESS, ["learner: tcp://127.0.0.1:BUSY is in use", "port 0"]),
    ("--bind tcp://0.0.0.0:0", CONFIGURATION, ["learner: refusing to listen", "--insecure"]),
    (
        "--replay-storage shm --replay-capacity 1_000_000_000_000_000",
        EXPLAINED,
        [
            "replay_server: no room for a replay of",
            "at /dev/shm/zapex-run-",
            "make /dev/shm larger",
        ],
    ),
)


@pytest.mark.parametrize(
    ("words", "exit_code", "fragments"),
    REFUSED_BY_A_PROCESS,
    ids=[case[0] for case in REFUSED_BY_A_PROCESS],
)
def test_what_a_process_cannot_do_ends_the_launch_in_its_words(
    start: Start,
    tmp_path: Path,
    busy_port: int,
    words: str,
    exit_code: int,
    fragments: Sequence[str],
) -> None:
    # These arguments are for the faulty environment alone.
    kwargs = {"fault": "reset raises"} if FAULTY in words else {}
    preset = write_preset(tmp_path / "tiny.toml", env_kwargs=kwargs)
    options = words.replace("BUSY", str(busy_port)).split()
    command = start("deploy", "launch", "--preset", preset, "--run-dir", "run", *options)
    assert command.wait() == exit_code
    line = error_of(command)
    for fragment in fragments:
        assert fragment.replace("BUSY", str(busy_port)) in line
    assert "restarting" not in command.output()  # It would be the same again.
    announced = "replay_server: a replay of 1,000,000,000,000,000 transitions takes "
    assert (announced in command.output()) == ("--replay-capacity" in words)


def test_replays_that_fit_alone_but_not_together_are_refused_when_the_run_begins(
    start: Start, tmp_path: Path
) -> None:
    preset = write_preset(tmp_path / "tiny.toml")
    # A transition of CartPole takes 40 bytes or more with its share of a tree: each server wants a
    # bit more than half of what there is.
    words = f"--replay-storage memory --replay-capacity {available_memory() * 12 // 10 // 48}"
    options = [*words.split(), "--replay-servers", "2", "--preset", preset, "--run-dir", "run"]
    command = start("deploy", "launch", *options)
    assert command.wait() == EXPLAINED
    line = error_of(command)
    assert re.match(r"error: no room for 2 replays of [0-9.]+ GB each in memory: lower", line)
    assert not (tmp_path / "run").exists()


REFUSED_BY_A_THREAD: Sequence[Case] = (
    ("--env CartPol-v1", ENVIRONMENT, ["unknown environment 'CartPol-v1'", "CartPole-v1"]),
    ("--env CartPole-v9", ENVIRONMENT, ["unknown environment 'CartPole-v9'", "`v1`"]),
    ("--env nowhere:CartPole-v1", ENVIRONMENT, ["No module named 'nowhere'", "Python path"]),
    (f"--env {OURS}Paced-v7", ENVIRONMENT, ["unknown environment", "Paced"]),
    (f"--env {OURS}Steered-v0", ENVIRONMENT, ["action space Box(-1.0, 1.0", "Discrete actions"]),
    (f"--env {OURS}Growing-v0", ENVIRONMENT, ["observation space Sequence", "zapex takes Box"]),
    (
        f"--env {OURS}Unequipped-v0",
        ENVIRONMENT,
        ["needs a package that is not installed", "[box2d]"],
    ),
    (
        '--env CartPole-v1 --env-kwargs {"gravitas":9.8}',
        ENVIRONMENT,
        ["cannot make CartPole-v1 with {'gravitas': 9.8}"],
    ),
    (
        "--network mlq",
        CONFIGURATION,
        ["network = 'mlq'", "expected mlp, nature, minatar"],
    ),
    ("--network math:sqrt", CONFIGURATION, ["network = 'math:sqrt' cannot be built"]),
    (
        "--replay-storage memory --replay-capacity 1_000_000_000_000_000",
        EXPLAINED,
        ["no room for a replay of", "in memory: lower replay_capacity"],
    ),
    ("--device toaster", CONFIGURATION, ["device = 'toaster'", "choose auto, cpu, cuda or mps"]),
)


@pytest.mark.parametrize(
    ("words", "exit_code", "fragments"),
    REFUSED_BY_A_THREAD,
    ids=[case[0] for case in REFUSED_BY_A_THREAD],
)
def test_what_a_thread_cannot_do_ends_the_launch_in_its_words(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: str,
    exit_code: int,
    fragments: Sequence[str],
) -> None:
    run_dir = str(tmp_path / "run")
    options = ["--in-process", "--run-dir", run_dir, *words.split()]
    with own_logging():
        assert run_main(lambda: launch(options)) == exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for fragment in fragments:
        assert fragment in line


def test_a_resumed_run_with_another_network_is_refused_and_unchanged(
    start: Start, tmp_path: Path, finished_run: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(finished_run, run_dir)
    kept = {path: path.read_bytes() for path in run_dir.rglob("*") if _is_kept(path)}
    command = start("deploy", "launch", "--resume", "run", "--hidden-sizes", "8")
    assert command.wait() == DIRECTORY
    line = error_of(command)
    for fragment in ("of another network", "(3, 16) there and (3, 8) here", "or start a new run"):
        assert fragment in line
    assert {path: path.read_bytes() for path in kept} == kept
    assert len(kept) > 4


@pytest.mark.parametrize(
    ("words", "exit_code", "fragments"),
    [
        ("RUN --checkpoint 1", DIRECTORY, ["no checkpoint '1'", "best"]),
        ("RUN --checkpoint newest", DIRECTORY, ["no checkpoint 'newest'", "there are"]),
        ("RUN --episodes 0", CONFIGURATION, ["--episodes 0: must be at least 1"]),
        ("nowhere", DIRECTORY, ["nowhere holds no run"]),
    ],
)
def test_evaluate_says_what_it_cannot_do(
    finished_run: Path,
    capsys: pytest.CaptureFixture[str],
    words: str,
    exit_code: int,
    fragments: Sequence[str],
) -> None:
    options = words.replace("RUN", str(finished_run)).split()
    assert run_main(lambda: evaluate(options)) == exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for fragment in fragments:
        assert fragment in line


@pytest.mark.parametrize("words", ["--batch-size many", "--bach-size 3", "--env-kwargs {"])
def test_what_cannot_be_parsed_is_explained(start: Start, words: str) -> None:
    command = start("deploy", "launch", "--in-process", *words.split())
    assert command.wait() == CONFIGURATION
    # An unknown flag is answered by the nearest one.
    assert words.split()[0].replace("bach", "batch") in command.output()
    assert "Traceback" not in command.output()


def test_debug_adds_the_traceback(start: Start) -> None:
    command = start("deploy", "launch", "--in-process", "--debug", "--preset", "cartpol")
    assert command.wait() == CONFIGURATION
    assert "Traceback (most recent call last)" in command.output()
    assert command.output().splitlines()[-1].startswith("error: no preset 'cartpol'")


def test_errors_go_to_standard_error(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "deploy", "launch", "--in-process", "--preset", "cartpol"]
    command = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert command.stdout == ""
    assert command.stderr.startswith("error: ")


def _is_kept(path: Path) -> bool:
    return path.suffix in (".toml", ".json", ".safetensors")
