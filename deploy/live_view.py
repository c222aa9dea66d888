"""What a run shows while it goes on: a live panel on a terminal, a line now and then elsewhere."""

import socket
import time
from collections.abc import Iterator
from types import TracebackType

from rich import filesize
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from common import transport
from deploy.refusals import in_a_line, refusals
from deploy.status_client import Plain

LINE_PERIOD_S = 5.0
RATE_WINDOW_S = 10.0
"""Rates are means over this much of the recent past: a slow actor's inserts come seconds apart,
each with a thousand steps."""

INSERTS_WAITED = "replay_insert_blocked_seconds_total"


class Rates:
    """Differences of counters over the recent past."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, dict[str, float]]] = []

    def add(self, now_s: float, counters: dict[str, float]) -> None:
        self._samples.append((now_s, counters))
        while now_s - self._samples[0][0] > RATE_WINDOW_S and len(self._samples) > 2:
            self._samples.pop(0)

    def per_second(self, name: str) -> float:
        told = [(at_s, counters[name]) for at_s, counters in self._samples if name in counters]
        if len(told) < 2:
            return 0.0
        (first_s, first), (last_s, last) = told[0], told[-1]
        return max(last - first, 0.0) / max(last_s - first_s, 1e-9)


class LiveView:
    """Context manager; `update` with each status, `say` for a line that stays.

    Args:
        title: the first line.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._console = Console(emoji=False)
        self._rates = Rates()
        self._next_line_s = 0.0
        self._last_evaluation: int | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=40),
            TextColumn("{task.percentage:>3.0f}%"),
            _StepsColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task("budget", total=None)
        self._live: Live | None = None

    def __enter__(self) -> "LiveView":
        self.say(self._title)
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                console=self._console, refresh_per_second=4, transient=True, auto_refresh=False
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """A line that stays on the screen."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show_head(self, address: str) -> None:
        shown = transport.reachable(address, f"tcp://{socket.gethostname()}")
        self.say(f"head at {shown} (more actors: python -m actor --connect {shown})")

    def update(self, status: Plain | None) -> None:
        """Show a status; None: there is nothing new."""
        if status is None:
            return
        now_s = time.monotonic()
        self._rates.add(now_s, _counters(status))
        self._announce_evaluation(status)
        if self._live is not None:
            self._live.update(self._panel(status), refresh=True)
        elif now_s >= self._next_line_s:
            self._next_line_s = now_s + LINE_PERIOD_S
            self.say("  ".join(f"{name} {value}" for name, value in self._facts(status)))

    def _announce_evaluation(self, status: Plain) -> None:
        learner = status["learner"]
        if self._last_evaluation is None:
            self._last_evaluation = learner["evaluations"]
        if learner["evaluations"] > self._last_evaluation and self._live is None:
            self._last_evaluation = learner["evaluations"]
            self.say(
                f"{status['wall_s']:6.1f} s  evaluation {learner['evaluations']}: "
                f"greedy return {show_return(learner['score'])}"
            )

    def _panel(self, status: Plain) -> Group:
        learner = status["learner"]
        self._progress.update(
            self._task, total=status["total_env_steps"], completed=learner["env_steps"]
        )
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column()
        for name, value in self._facts(status):
            table.add_row(name, Text(value))
        return Group(self._progress, table)

    def _facts(self, status: Plain) -> Iterator[tuple[str, str]]:
        learner = status["learner"]
        yield "time", f"{status['wall_s']:.0f} s, {learner['phase']}"
        target = "" if status["target_return"] is None else f" (target {status['target_return']:g})"
        best = _number(learner["best_score"])
        yield "greedy", f"{_number(learner['score'])}, best {best}{target}"
        yield "training return", _number(status["train_return"])
        yield (
            "env steps",
            f"{learner['env_steps']:,} ({self._rates.per_second('env_steps'):,.0f}/s)",
        )
        yield "updates", f"{learner['updates']:,} ({self._rates.per_second('updates'):,.0f}/s)"
        fill = learner["table_size"] / status["replay_capacity"]
        size = filesize.decimal(status["replay_bytes"])
        yield "replay", f"{learner['table_size']:,} ({fill:.0%} of {size})"
        wanted = status["samples_per_insert"]
        actual = learner["sampled"] / max(learner["inserted"], 1)
        yield "samples/insert", f"{actual:.1f} of {'∞' if wanted is None else f'{wanted:g}'}"
        lags = [
            learner["updates"] - m["values"].get("actor_weights_version", 0.0)
            for m in status["members"]
            if m["role"] == "actor"
        ]
        lag = max(sum(lags) / max(len(lags), 1), 0.0)
        yield "policy lag", f"{lag:.0f} updates (experience {learner['experience_age']:,.0f})"
        actors_wait = min(self._rates.per_second(INSERTS_WAITED), 1.0)
        learner_waits = min(self._rates.per_second("waited_s"), 1.0)
        yield "waiting", f"actors {actors_wait:.0%}, learner {learner_waits:.0%} of the time"
        roles = [m["role"] for m in status["members"]]
        members = f"{roles.count('actor')} actors"
        if status["lost"]:
            members += f", lost so far: {sum(status['lost'].values())}"
        yield "members", members
        # A head of an older version does not tell either of these.
        refused = refusals(status.get("refused", {}))
        if refused:
            yield "refused", in_a_line(refused)
        if learner.get("trouble"):
            yield "NOT SAVED", f"{learner['failed_checkpoints']} times: {learner['trouble']}"


def show_return(value: float) -> str:
    """A return with as many digits as tell something."""
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


class _StepsColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.completed:,.0f} / {task.total or 0:,.0f} env steps")


def _counters(status: Plain) -> dict[str, float]:
    learner = status["learner"]
    counters = {name: float(learner[name]) for name in ("env_steps", "updates", "waited_s")}
    values = [m["values"] for m in status["members"] if m["role"] == "replay_server"]
    # A server that has just come back to a restarted head has told nothing yet.
    waited_s = [v[INSERTS_WAITED] for v in values if INSERTS_WAITED in v]
    if waited_s:
        counters[INSERTS_WAITED] = sum(waited_s) / len(waited_s)
    return counters


def _number(value: float | None) -> str:
    return "–" if value is None else show_return(value)
