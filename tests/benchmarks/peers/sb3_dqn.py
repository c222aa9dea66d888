"""Stable-Baselines3's DQN from process start to a greedy score, on one thread.

    python -m tests.benchmarks.peers.sb3_dqn --env CartPole-v1 --seed 0 --target 475

prints {"env", "seed", "solved", "wall_s", "env_steps", "eval_return_mean"}. `wall_s` counts from
the start of the process, imports included, to the evaluation that reached the target.

Everything that is ours to choose favours the peer: its 20 greedy episodes run as one vector
environment, with one forward pass for all of them, where SB3's habit is one environment
(`--eval-envs 1`), and its budget of steps is `BUDGETS` times the zoo's. Its exploration still
decays over the zoo's `n_timesteps`, as it was tuned, not over the longer budget.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.peers import unavailable

IMPORTED_S = time.monotonic()

BUDGETS = 5
"""Total environment steps allowed, in units of the zoo's n_timesteps."""

# https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/hyperparams/dqn.yml, read at commit
# ce95481b; LunarLander-v3 uses what the zoo lists for LunarLander-v2. All networks are
# net_arch=[256, 256]. n_timesteps, train_freq and target_update_interval count environment steps;
# gradient_steps counts updates at each train_freq, −1 meaning as many as steps were taken.
_OF_ACROBOT_AND_LUNARLANDER: dict[str, Any] = {
    "n_timesteps": 100_000,
    "learning_rate": 6.3e-4,
    "batch_size": 128,
    "buffer_size": 50_000,
    "learning_starts": 0,
    "gamma": 0.99,
    "target_update_interval": 250,
    "train_freq": 4,
    "gradient_steps": -1,
    "exploration_fraction": 0.12,
    "exploration_final_eps": 0.1,
}
ZOO: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "n_timesteps": 50_000,
        "learning_rate": 2.3e-3,
        "batch_size": 64,
        "buffer_size": 100_000,
        "learning_starts": 1_000,
        "gamma": 0.99,
        "target_update_interval": 10,
        "train_freq": 256,
        "gradient_steps": 128,
        "exploration_fraction": 0.16,
        "exploration_final_eps": 0.04,
    },
    "MountainCar-v0": {
        "n_timesteps": 120_000,
        "learning_rate": 4e-3,
        "batch_size": 128,
        "buffer_size": 10_000,
        "learning_starts": 1_000,
        "gamma": 0.98,
        "target_update_interval": 600,
        "train_freq": 16,
        "gradient_steps": 8,
        "exploration_fraction": 0.2,
        "exploration_final_eps": 0.07,
    },
    "Acrobot-v1": _OF_ACROBOT_AND_LUNARLANDER,
    "LunarLander-v3": _OF_ACROBOT_AND_LUNARLANDER,
}


def seconds_since_process_start() -> float:
    """Wall-clock seconds; where /proc is missing, since this file was imported."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return time.monotonic() - IMPORTED_S
    return uptime_s - ticks / os.sysconf("SC_CLK_TCK")


def train(env_id: str, seed: int, target: float, eval_freq: int, eval_envs: int) -> dict[str, Any]:
    """Trains until a greedy evaluation of 20 episodes reaches `target` or the budget ends."""
    try:
        import torch
        from stable_baselines3 import DQN
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.evaluation import evaluate_policy
    except ImportError as error:
        unavailable(error, "stable_baselines3", "torch")
    torch.set_num_threads(1)
    settings = dict(ZOO[env_id])
    n_timesteps = settings.pop("n_timesteps")
    settings["exploration_fraction"] /= BUDGETS
    eval_env = make_vec_env(env_id, n_envs=eval_envs, seed=seed + 10_000)
    result: dict[str, Any] = {}
    model = DQN(
        "MlpPolicy",
        make_vec_env(env_id, n_envs=1, seed=seed),
        policy_kwargs={"net_arch": [256, 256]},
        seed=seed,
        device="cpu",
        **settings,
    )

    def goes_on(_locals: dict[str, Any], _globals: dict[str, Any]) -> bool:
        """After each environment step; evaluates every `eval_freq`, and ends the training once
        the target is reached."""
        if model.num_timesteps % eval_freq:
            return True
        mean, _ = evaluate_policy(model, eval_env, n_eval_episodes=20)
        result.update(
            env=env_id,
            seed=seed,
            solved=bool(mean >= target),
            wall_s=round(seconds_since_process_start(), 2),
            env_steps=model.num_timesteps,
            eval_return_mean=round(float(mean), 2),
        )
        return not result["solved"]

    model.learn(total_timesteps=BUDGETS * n_timesteps, callback=goes_on)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--env", choices=sorted(ZOO), default="CartPole-v1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", type=float, default=475.0, help="greedy mean of 20 episodes")
    parser.add_argument("--eval-freq", type=int, default=2500, help="environment steps")
    parser.add_argument("--eval-envs", type=int, default=20, help="SB3's own default is 1")
    options = parser.parse_args()
    result = train(options.env, options.seed, options.target, options.eval_freq, options.eval_envs)
    print(json.dumps(result))


if __name__ == "__main__":
    # Before torch is imported, or its thread pool is already sized.
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
