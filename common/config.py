"""The run's configuration: every number that shapes an experiment, by its name in the field.

A preset (`deploy/presets/*.toml`) or a flag (`--learning-rate`) sets a field; `config.toml` in the
run directory shows all of them as they were in force. Impossible values are refused here, with the
key, the value and what is allowed.
"""

import difflib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from common.blocks import MAX_REWARD
from common.errors import ConfigError

PositiveInt = Annotated[int, Field(ge=1, lt=1 << 53)]
"""A float holds every one exactly, as metrics are."""
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
_Reward = Annotated[float, Field(gt=0, le=MAX_REWARD)]
_NONE = "none"  # TOML has no null.


def _none(value: Any) -> Any:
    return None if isinstance(value, str) and value.lower() == _NONE else value


def _json_text(value: Any) -> Any:
    """TOML's tables cannot hold null; their JSON can."""
    return json.loads(value) if isinstance(value, str) else value


class Config(BaseModel):
    """Defaults are the Ape-X paper's (Horgan et al. 2018, section 4.1 and the appendix) where it
    gives a number that a small machine can use, and common practice for vector observations
    elsewhere."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    # ------------------------------------------------------------------------------ environment

    env: str = "CartPole-v1"
    """Gymnasium id, or module:EnvId for an environment of your own."""
    env_kwargs: Annotated[dict[str, Any], BeforeValidator(_json_text)] = {}
    """Keyword arguments for the environment: a table in TOML, a JSON object as a flag."""
    vectorization: Literal["sync", "async", "vector_entry_point", "envpool"] = "sync"
    """How an actor steps its environments: in turn, in a process each, by the environment's own
    vector class, or by EnvPool's."""
    autoreset: Literal["next_step", "same_step"] = "next_step"
    """When a finished environment starts over: with the step after, or within the same one. Both
    give the same transitions."""
    obs_key: Annotated[str | None, BeforeValidator(_none)] = None
    """Entry of a Dict observation that is the observation (image for MiniGrid); none: all entries,
    flattened."""
    resize: Annotated[tuple[PositiveInt, PositiveInt] | None, BeforeValidator(_none)] = None
    """Height and width, in pixels, to which images are resized."""
    greyscale: bool = False
    """Turn colour images into grey ones."""
    frame_stack: Annotated[int, Field(ge=1, le=64)] = 1
    """Newest observations that the network sees together. Each is stored and sent once."""
    life_loss_ends_episode: bool = False
    """A lost life ends the episode for the learner (discount 0), though the game goes on; returns
    are recorded for whole games. Needs an environment that tells its lives."""
    reward_clip: Annotated[_Reward | None, BeforeValidator(_none)] = None
    """Clip rewards to ± this before learning (1 for Atari); returns are recorded unclipped."""
    env_step_timeout: Annotated[PositiveFloat | None, BeforeValidator(_none)] = 60.0
    """Seconds that a step, reset or close of an environment may take (of a vector class: of all its
    environments) before its process is ended and started again; none: for ever."""
    env_make_timeout: Annotated[PositiveFloat | None, BeforeValidator(_none)] = 300.0
    """Seconds that making an environment may take; none: for ever."""

    # ------------------------------------------------------------------------------ budget, goal

    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    """Seeds environments, exploration, sampling and the network."""
    total_env_steps: PositiveInt = 1_000_000
    """Budget: the run ends after this many environment steps of all actors together."""
    target_return: Annotated[FiniteFloat | None, BeforeValidator(_none)] = None
    """The run ends when the greedy score reaches this return."""
    eval_period: PositiveInt = 1_000
    """Learner updates between two greedy evaluations."""
    eval_episodes: PositiveInt = 20
    """Greedy episodes of an evaluation; their mean return is the score."""
    confirm_episodes: Annotated[int, Field(ge=0)] = 100
    """Once a score reaches the target, this many fresh episodes are played, and the run ends when
    their mean reaches it by three standard errors; 0 takes the first score at its word."""

    # ------------------------------------------------------------------------------ actors

    actors: PositiveInt = 1
    """Actor processes of the run: those that the launcher starts, and for which ε is laid out."""
    envs_per_actor: PositiveInt = 16
    """Environments in each actor."""
    epsilon_base: Fraction = 0.4
    """ε of exploration: environment i of M acts at random with probability
    base^(1 + alpha·i/(M−1))."""
    epsilon_alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 7.0
    """The exponent's range over the environments."""
    block_length: PositiveInt = 64
    """Transitions in a block: what an actor sends at once for each environment."""
    insert_window: Annotated[int, Field(ge=1, le=64)] = 4
    """Inserts an actor may have unacknowledged before it stops stepping."""
    actor_memory_limit: Annotated[PositiveFloat | None, BeforeValidator(_none)] = None
    """Resident memory, in MiB, of an actor and the processes below it, what they share counted for
    each, above which it hands in its experience and is started again: for environments that leak;
    none: any."""

    inference: Literal["actor", "host", "gpu"] = "actor"
    """Who computes the Q-values that actors act by: each for itself on the CPU; host: one process
    for all actors of a host, in batches; gpu: the same, refused where there is no GPU."""
    inference_device: str = "auto"
    """Where an inference process computes: auto, cpu, cuda, cuda:1, mps."""

    # ------------------------------------------------------------------------------ network

    network: str = "mlp"
    """mlp; nature (Mnih et al. 2015) for 84×84 images; minatar for 10×10 ones; or module:function,
    called with (obs_shape, num_actions), for a torch module of your own. With frame_stack > 1,
    obs_shape begins with the stack."""
    hidden_sizes: tuple[Annotated[int, Field(ge=1, le=1 << 16)], ...] = (128, 128)
    """Units in each hidden layer of the mlp."""
    dueling: bool = True
    """Separate state-value and advantage heads (Wang et al. 2016)."""

    # ------------------------------------------------------------------------------ learning

    discount: Fraction = 0.99
    """γ per environment step."""
    n_step: Annotated[int, Field(ge=1, le=255)] = 3
    """Steps of reward before bootstrapping."""
    double: bool = True
    """Choose the bootstrap action with the online network (van Hasselt et al. 2016)."""
    batch_size: PositiveInt = 512
    """Transitions in an update."""
    learning_rate: PositiveFloat = 1e-3
    """Step size of the optimiser."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """adam, or the paper's centred RMSProp."""
    adam_epsilon: PositiveFloat = 1e-8
    """Adam's ε, added to the root of the second moment."""
    rmsprop_decay: Fraction = 0.95
    """RMSProp's decay of its moving averages."""
    rmsprop_epsilon: PositiveFloat = 1.5e-7
    """RMSProp's ε, added to the gradient's variance, inside the root."""
    loss: Literal["huber", "squared"] = "huber"
    """Of the temporal-difference error δ: Huber with knee 1, or ½δ²."""
    max_grad_norm: Annotated[PositiveFloat | None, BeforeValidator(_none)] = 40.0
    """Gradients of a larger global L2 norm are scaled down to it; none: never."""
    target_update_period: PositiveInt = 2_500
    """Learner updates between two copies of the online network to the target network."""

    # ------------------------------------------------------------------------------ replay

    replay_capacity: PositiveInt = 1_000_000
    """Transitions kept, rounded up to whole blocks."""
    replay_servers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes among which experience is divided: each holds a share of replay_capacity, and a
    batch is drawn from all of them."""
    min_size_to_sample: PositiveInt = 1_000
    """Transitions inserted before the first update."""
    samples_per_insert: Annotated[PositiveFloat | None, BeforeValidator(_none)] = 32.0
    """How often a transition is sampled on average: the faster of actors and learner waits for the
    other; none: both run freely, as in the paper."""
    samples_per_insert_tolerance: Annotated[PositiveFloat | None, BeforeValidator(_none)] = None
    """Half the width of the band that (inserts − min_size_to_sample) × samples_per_insert − samples
    is held in, in samples, but for one insert that may step over its upper edge; none: 16 batches,
    or twice what one insert brings if that is more."""
    prioritized: bool = True
    """Sample in proportion to priority; false: uniformly."""
    priority_exponent: Fraction = 0.6
    """α: 0 is uniform, 1 fully in proportion to |δ|."""
    priority_epsilon: PositiveFloat = 1e-6
    """Added to |δ|, so that every transition can be drawn."""
    importance_sampling_exponent: Fraction = 0.4
    """β: how far the bias of prioritised sampling is corrected, 1 fully."""

    replay_storage: Literal["file", "shm", "memory"] = "file"
    """Where the launcher has the replay server keep experience: a file of the run directory, which
    survives the run; /dev/shm; or memory of its own process, which nobody can map."""
    replay_flush_period_s: PositiveFloat = 30.0
    """Seconds from one flush of that file to the disk to the next: what a power failure may take. A
    process that dies takes nothing with it."""
    replay_link: Literal["auto", "shared_memory", "wire"] = "auto"
    """How the learner gets sampled transitions: by reading the replay server's storage itself, or
    sent over the wire; auto: the first where both are on one host."""

    compression: Literal["lz4", "zstd", "none"] = "lz4"
    """Of images between hosts, of which only what differs from the frame before is sent in any
    case: lz4 is fast; zstd is slower and makes that smaller, for slow links."""

    # ------------------------------------------------------------------------------ learner

    device: str = "auto"
    """Where the learner's network lives: auto, cpu, cuda, cuda:1, mps."""
    learner_threads: Annotated[int, Field(ge=1, le=1_024)] = 1
    """Threads PyTorch uses for one operation on the CPU. More than there are idle cores make an
    update slower by a multiple: they wait for each other, spinning."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """How the learner lays out images and convolutions: channels_last is what tensor cores want;
    auto: channels_last for nature and minatar on cuda, else contiguous."""
    autocast: Literal["auto", "off", "bfloat16", "float16"] = "auto"
    """Numbers that the learner's network multiplies in; weights, Q-values, targets, losses and
    priorities are float32 always. auto: bfloat16 for nature and minatar where the device multiplies
    in it by itself, else off. float16 needs cuda."""
    compile_update: bool = False
    """Compile the loss, and RMSProp's step, with torch.compile: 10–60 s when a run starts, a few
    from PyTorch's cache; without a C++ compiler the update runs as it is. For cuda and for mlps; on
    a CPU convolutions lose."""
    cuda_graph: bool = False
    """Start each update as one recorded CUDA graph instead of kernel by kernel: for small batches,
    whose kernels take longer to start than to run. Needs cuda, and a network that never waits for
    the device."""
    fused_optimizer: bool = True
    """Adam in one pass over weights and moments; false: one operation after the other."""
    prefetch_batches: Annotated[int, Field(ge=1, le=64)] = 4
    """Batches that are requested, ready or in training: how far the learner asks ahead."""
    publish_period: PositiveInt = 25
    """Learner updates between two broadcasts of the weights."""
    publish_dtype: Literal["float32", "float16"] = "float32"
    """Precision of broadcast weights."""
    checkpoint_period: PositiveInt = 2_500
    """Learner updates between two checkpoints; one is always written at the end."""
    keep_checkpoints: PositiveInt = 3
    """Newest checkpoints kept, beside the best one."""

    # ------------------------------------------------------------------------------ metrics

    tensorboard: bool = False
    """Write the run's curves for TensorBoard, to RUN_DIR/tb. Needs the extra watch."""
    video_period: Annotated[PositiveInt | None, BeforeValidator(_none)] = None
    """Evaluations from one that is filmed to the next: of its weights, one more greedy episode goes
    to RUN_DIR/videos; none: no videos. A step on film takes 3 ms of CPU time. Needs the extra
    watch."""
    wandb_project: Annotated[str | None, BeforeValidator(_none)] = None
    """Project of Weights & Biases that gets the run's curves; none: nothing leaves this host.
    Needs the extra wandb."""

    @model_validator(mode="after")
    def _values_fit_together(self) -> Self:
        for smaller, larger in (
            ("batch_size", "replay_capacity"),
            ("min_size_to_sample", "replay_capacity"),
        ):
            low, high = getattr(self, smaller), getattr(self, larger)
            if low > high:
                raise ValueError(f"{smaller} = {low} must not exceed {larger} = {high}")
        insert = self.envs_per_actor * self.block_length
        if insert > self.replay_capacity // self.replay_servers:
            each = "" if self.replay_servers == 1 else f" in each of {self.replay_servers} servers"
            raise ValueError(
                f"replay_capacity = {self.replay_capacity} must hold one insert of an actor{each}: "
                f"envs_per_actor × block_length = {insert}"
            )
        tolerance = self.samples_per_insert_tolerance
        limits = self.samples_per_insert is not None
        if limits and tolerance is not None and 2 * tolerance < self.batch_size:
            raise ValueError(
                f"samples_per_insert_tolerance = {tolerance:g} must be at least half of "
                f"batch_size = {self.batch_size}: actors and learner would wait for each other"
            )
        if self.cuda_graph and self.autocast == "float16":
            raise ValueError(
                "cuda_graph = true cannot record autocast = float16, whose steps the host judges: "
                "choose bfloat16 or off"
            )
        if self.device != "auto":
            reason = self.unfit_for(self.device.partition(":")[0])
            if reason is not None:
                raise ValueError(reason)
        return self

    def unfit_for(self, device_type: str) -> str | None:
        """Why the learner cannot run so on a device of this type (cpu, cuda, mps); None: it can."""
        if device_type == "cuda":
            return None
        if self.cuda_graph:
            return f"cuda_graph = true needs device = cuda, not {device_type}"
        if self.autocast == "float16":
            return (
                f"autocast = float16 needs device = cuda, not {device_type}: choose bfloat16 or off"
            )
        return None

    @property
    def replay_slots(self) -> int:
        """Blocks that each replay server holds."""
        return -(-self.replay_capacity // (self.block_length * self.replay_servers))

    @property
    def replay_size(self) -> int:
        """Transitions that all replay servers hold together."""
        return self.replay_slots * self.block_length * self.replay_servers

    @property
    def server_min_size_to_sample(self) -> int:
        """Each replay server's share of min_size_to_sample."""
        return -(-self.min_size_to_sample // self.replay_servers)

    @property
    def limiter_tolerance(self) -> float:
        """Half the width of each replay server's rate limiter's band, in samples."""
        if self.samples_per_insert_tolerance is not None:
            return self.samples_per_insert_tolerance
        insert = self.envs_per_actor * self.block_length * (self.samples_per_insert or 0.0)
        return max(16.0 * self.batch_size, 2.0 * insert)

    @property
    def expected_envs(self) -> int:
        """Environments that the launcher's actors have together: the ε ladder's length at start."""
        return self.actors * self.envs_per_actor


def config_from_mapping(values: dict[str, Any], source: str) -> Config:
    """A configuration from plain values over the defaults.

    Raises ConfigError naming the key, the value, what is allowed and, for an unknown key, the
    nearest valid one. `source` says where the values came from.
    """
    for key in values:
        if key not in Config.model_fields:
            near = difflib.get_close_matches(key, Config.model_fields, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{source}: unknown key {key!r}{hint}")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """The first of pydantic's findings in one line: key, value, what is allowed."""
    first = error.errors(include_url=False)[0]
    what = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return what
    key = str(first["loc"][0])
    return f"{key} = {first['input']!r}: {what[0].lower()}{what[1:]}"


def read_toml(path: Path, source: str, bases: Path | None = None) -> dict[str, Any]:
    """The values of a TOML file, laid over those of the file that it names as its base.

    `base = "atari"` means atari.toml beside the file or else, if given, in the directory `bases`; a
    base may have one of its own.

    Raises ConfigError when a file cannot be read, is not TOML, or stands on itself.
    """
    return _read_layers(path, source, bases, above=())


def _read_layers(
    path: Path, source: str, bases: Path | None, above: tuple[Path, ...]
) -> dict[str, Any]:
    if path.resolve() in above:
        raise ConfigError(f"{source}: {path} is its own base")
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: cannot read {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: {path} is not TOML: {error}") from error
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{source}: base = {base!r}: must be the name of a preset")
    beside = path.parent / f"{base}.toml"
    below = beside if bases is None or beside.exists() else bases / beside.name
    return lay_over(values, _read_layers(below, source, bases, (*above, path.resolve())))


def lay_over(values: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The values over those of the base; entries of env_kwargs one by one."""
    merged = base | values
    below, above = base.get("env_kwargs"), values.get("env_kwargs")
    if isinstance(below, dict) and isinstance(above, dict):
        merged["env_kwargs"] = below | above
    return merged


def to_toml(config: Config) -> str:
    """Every value in force, readable by `config_from_mapping`."""
    values = {k: _NONE if v is None else v for k, v in config.model_dump(mode="json").items()}
    values["env_kwargs"] = json.dumps(config.env_kwargs)
    return tomli_w.dumps(values)


def write_toml(config: Config, path: Path) -> None:
    """`to_toml` in a file."""
    path.write_text(to_toml(config))
