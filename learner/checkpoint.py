"""Checkpoints: one safetensors file each, with the counters as JSON in its metadata.

    RUN_DIR/checkpoints/00012000.safetensors    after 12,000 updates: everything, to resume from
    RUN_DIR/checkpoints/best.safetensors        the best evaluated weights, to use

A file is written under a temporary name, flushed to the disk, then renamed, so that a file with its
final name is complete; a digest in it tells whether it still is. Reading one runs no code.
"""

import contextlib
import hashlib
import json
import logging
import os
import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import CheckpointError, MalformedMessage
from common.run_directory import HALF_WRITTEN
from common.spec import EnvSpec
from learner.update import QLearner

FORMAT = 2
BEST = "best"
MAX_EVALUATIONS = 2_000
"""Kept in a run's state: some 300 KB of each checkpoint."""
DAMAGED = ".damaged"

log = logging.getLogger(__name__)


class _Damaged(CheckpointError):
    """The file is not what was written."""


@dataclass(slots=True)
class RunState:
    """Counters of a run that survive its processes."""

    run_id: str
    epoch: int = 0
    """Starts of the learner."""
    updates: int = 0
    env_steps: int = 0
    replay_inserted: dict[int, int] = field(default_factory=dict)
    """Each replay server's own count at that time, to see by how much it went on."""
    replay_sampled: int = 0
    """... and how many samples they had counted together."""
    wall_s: float = 0.0
    """Time the run has taken in all its parts, in seconds."""
    best_score: float | None = None
    solved: bool = False
    """Whether the present target was reached, in whatever part of the run."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """env_steps, updates, wall_s, return_mean, return_std and episodes of each; of more than
    `MAX_EVALUATIONS` so many, evenly spread."""
    evaluated: int = 0
    """Evaluations so far."""

    def note_evaluation(self, facts: dict[str, float]) -> None:
        """Keep the newest one's facts."""
        self.evaluated += 1
        kept = self.evaluations
        kept.append(facts)
        if len(kept) > MAX_EVALUATIONS:
            # metrics.jsonl has them all. Here the one goes that its neighbours are closest around.
            between = range(1, len(kept) - 1)
            del kept[min(between, key=lambda i: kept[i + 1]["updates"] - kept[i - 1]["updates"])]


def save_checkpoint(
    directory: Path, learner: QLearner, state: RunState, spec: EnvSpec, keep: int
) -> Path:
    """Write everything a resumed run needs, then remove all but the newest `keep`."""
    tensors = {f"online.{k}": v for k, v in learner.online.state_dict().items()}
    tensors |= {f"target.{k}": v for k, v in learner.target.state_dict().items()}
    for index, values in learner.optimizer.state_dict()["state"].items():
        for name, value in values.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    # Empty unless a loss is scaled.
    for name, value in learner.scaler.state_dict().items():
        tensors[f"scaler.{name}"] = torch.tensor(value)
    tensors["rng.cpu"] = torch.get_rng_state()
    if learner.device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(learner.device)
    path = directory / f"{learner.updates:08d}.safetensors"
    _write(path, tensors, {"state": asdict(state), "spec": spec.to_plain()})
    for old in checkpoints(directory)[:-keep]:
        # One that stays is no harm.
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def save_best(
    directory: Path, weights: dict[str, Tensor], spec: EnvSpec, facts: dict[str, Any]
) -> Path:
    """Write the weights that scored best, with what they scored."""
    path = directory / f"{BEST}.safetensors"
    _write(path, {f"online.{k}": v for k, v in weights.items()}, {"spec": spec.to_plain(), **facts})
    return path


def best_score(directory: Path) -> float | None:
    """What the weights that are kept as the best ones scored; None: there are none, or none that
    are as they were written. Raises CheckpointError when that cannot be told."""
    try:
        _, facts = _read(directory / f"{BEST}.safetensors")
        return float(facts["return_mean"])
    except (_Damaged, KeyError, TypeError, ValueError):
        return None


def checkpoints(directory: Path) -> list[Path]:
    """Complete numbered checkpoints, oldest first. Raises CheckpointError when the directory cannot
    be read."""
    try:
        # `glob` would find nothing where it may not look.
        paths = list(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(directory, error) from error
    numbered = (p for p in paths if p.suffix == ".safetensors" and p.stem.isdigit())
    return sorted(numbered, key=lambda p: int(p.stem))


def newest_intact(directory: Path) -> Path | None:
    """The newest numbered checkpoint that is as it was written; None if there is no checkpoint.

    Newer ones that are not are renamed, for they would be in the way of those to come, and what was
    being written when its process died is removed.

    Raises CheckpointError when none is intact, or one cannot be opened or is of another release.
    """
    found, damaged = checkpoints(directory), []
    for pattern in HALF_WRITTEN:
        for partial in directory.glob(pattern):
            partial.unlink()
    for path in reversed(found):
        try:
            _read(path)
        except _Damaged as error:
            damaged.append((path, error))
            continue
        for newer, why in damaged:
            newer.replace(newer.with_suffix(DAMAGED))
            log.warning("%s: it is put aside, the run goes on from %s", why, path.name)
        return path
    if damaged:
        raise CheckpointError(
            f"no checkpoint in {directory} is intact ({len(damaged)} are damaged): put a copy of "
            "one there, or start a new run"
        )
    return None


def load_run_state(path: Path) -> tuple[RunState, EnvSpec]:
    """Raises CheckpointError when the file is not a complete checkpoint of this format."""
    _, facts = _read(path, tensors=False)
    try:
        state = RunState(**facts["state"])
        # JSON has no other keys than text.
        state.replay_inserted = {int(n): count for n, count in state.replay_inserted.items()}
        return state, EnvSpec.from_plain(facts["spec"])
    except (KeyError, TypeError, ValueError, AttributeError, MalformedMessage) as error:
        raise CheckpointError(f"{path} lacks the counters of a run: {error}") from error


def restore_learner(path: Path, learner: QLearner) -> None:
    """Put networks, optimiser and random state back.

    Raises CheckpointError when the file belongs to another network or optimiser.
    """
    tensors, facts = _read(path)
    _load_module(learner.online, tensors, "online.", path)
    _load_module(learner.target, tensors, "target.", path)
    state = learner.optimizer.state_dict()
    kept: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            kept.setdefault(int(index), {})[key] = tensor
    expected = _optimizer_keys(learner.optimizer)
    if kept and any(set(values) != expected for values in kept.values()):
        raise CheckpointError(
            f"{path} was written with another optimizer: resume with the run's own, "
            "or start a new run"
        )
    learner.optimizer.load_state_dict({**state, "state": kept})
    scaler = {
        name.removeprefix("scaler."): tensor.item()
        for name, tensor in tensors.items()
        if name.startswith("scaler.")
    }
    if scaler:
        learner.scaler.load_state_dict(scaler)
    torch.set_rng_state(tensors["rng.cpu"])
    if learner.device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], learner.device)
    learner.updates = int(facts["state"]["updates"])


def load_weights_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The online network's tensors of any checkpoint, and its facts.

    Raises CheckpointError when the file is not a complete checkpoint.
    """
    tensors, facts = _read(path)
    online = {k.removeprefix("online."): v for k, v in tensors.items() if k.startswith("online.")}
    return online, facts


def _load_module(module: nn.Module, tensors: dict[str, Tensor], prefix: str, path: Path) -> None:
    found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    own = module.state_dict()
    for name in sorted(own.keys() | found.keys()):
        here = tuple(own[name].shape) if name in own else None
        there = tuple(found[name].shape) if name in found else None
        if here != there:
            raise CheckpointError(
                f"{path} is of another network: {name} has shape {there} there and {here} here. "
                "Resume with the run's own network, hidden_sizes and dueling, or start a new run"
            )
    module.load_state_dict(found)


def _optimizer_keys(optimizer: torch.optim.Optimizer) -> set[str]:
    if isinstance(optimizer, torch.optim.Adam):
        return {"step", "exp_avg", "exp_avg_sq"}
    return {"mean", "variance"}


def _write(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    temporary = path.with_suffix(".partial")
    contiguous = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    text = json.dumps({"format": FORMAT, **facts})
    metadata = {"zapex": text, "sha256": _digest(text, contiguous)}
    try:
        # Not its parents: a run directory that was removed is not to come back without its rest.
        path.parent.mkdir(exist_ok=True)
        temporary.unlink(missing_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(contiguous, temporary, metadata=metadata)
        # safetensors replaces the file by one that nobody else may read, whatever the umask says.
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise CheckpointError(
            f"cannot write {path} ({error}): free space or make it writable; "
            "the checkpoints before it are intact"
        ) from error


def _digest(facts: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = getattr(error, "strerror", None) or error
    return CheckpointError(f"cannot read {path} ({reason}): make it readable and try again")


def _read(path: Path, tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Raises _Damaged for a file that is not what was written, CheckpointError when that cannot be
    told."""
    try:
        # safetensors takes a file that may not be opened for one that is not there.
        path.open("rb").close()
    except FileNotFoundError as error:
        raise _Damaged(f"{path} is missing") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            facts = json.loads(metadata["zapex"])
            found = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, struct.error) as error:
        raise _Damaged(f"{path} is damaged or no zapex checkpoint ({error})") from error
    # PyTorch opens the file once more, and says so in a RuntimeError when it cannot.
    except (OSError, RuntimeError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path} is no zapex checkpoint")
    # First, for another release may reckon its digest in another way.
    if facts.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {facts.get('format')}, this release reads {FORMAT}"
        )
    if tensors and metadata.get("sha256") != _digest(metadata["zapex"], found):
        raise _Damaged(f"{path} is damaged: its content is not what was written")
    return found, facts
