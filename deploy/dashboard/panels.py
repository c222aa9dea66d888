"""Text and tables of the page, as HTML. Whatever a run or a file says is escaped."""

from collections.abc import Sequence
from html import escape
from typing import Any

from deploy.dashboard.catalogue import Run
from deploy.dashboard.difference import Setting
from deploy.dashboard.numbers import UNKNOWN, compact, duration, percent
from deploy.dashboard.observatory import View
from deploy.live_view import show_return
from deploy.refusals import refusals


def rows(runs: Sequence[Run], chosen: str | None, other: str | None) -> list[dict[str, Any]]:
    """Of the list of runs; numbers stay numbers, to sort by."""
    return [
        {
            "name": run.name,
            "env": run.env,
            "state": str(run.state),
            "score": run.score,
            "env_steps": run.env_steps,
            "wall_s": run.wall_s,
            "changed_s": run.changed_s,
            "chosen": "chosen" if run.name == chosen else "other" if run.name == other else "",
        }
        for run in runs
    ]


def title(run: Run, phase: str) -> str:
    """A run's name, its environment and what became of it. `phase`: of its learner, if it says."""
    more = f", {phase}" if phase and phase != "training" else ""
    return (
        f"<h2>{escape(run.name)}</h2><p>{escape(run.env)} "
        f'<span class="state {run.state}">{run.state}{escape(more)}</span></p>'
    )


def tiles(view: View, other: View | None) -> str:
    """The figures that tell most, and a second run's below them."""
    mine, theirs = _figures(view), _figures(other) if other is not None else {}
    return "".join(
        f'<div class="tile"><dt>{name}</dt><dd>{escape(value)}</dd>'
        + (f'<dd class="more">{escape(more)}</dd>' if more else "")
        + (f'<dd class="theirs">{escape(theirs[name][0])}</dd>' if name in theirs else "")
        + "</div>"
        for name, (value, more) in mine.items()
    )


def _figures(view: View) -> dict[str, tuple[str, str]]:
    """Value, and what there is to say about it, by name."""
    run, found, newest, config = view.run, view.flows, view.newest, view.config
    best = newest.get("learner_best_score")
    target = config.target_return if config else None
    about = [] if best is None else [f"best {show_return(best)}"]
    about += [] if target is None else [f"target {target:g}"]
    training = newest.get("head_training_return")
    wanted = config.samples_per_insert if config else None
    budget = f"of {compact(config.total_env_steps)}" if config else ""
    return {
        "greedy return": (
            UNKNOWN if run.score is None else show_return(run.score),
            ", ".join(about),
        ),
        "training return": (UNKNOWN if training is None else show_return(training), "with ε"),
        "env steps": (compact(run.env_steps), budget),
        "env steps/s": (compact(found.env_steps), ""),
        "updates/s": (compact(found.updates), f"{compact(newest.get('updates'))} so far"),
        "samples per insert": (
            compact(found.samples_per_insert),
            f"of {wanted:g}" if wanted is not None else "free",
        ),
        "wall clock": (duration(run.wall_s), ""),
    }


def fill(view: View) -> str:
    """How full the replay is, and how old what is sampled from it."""
    size, config = view.newest.get("replay_transitions"), view.config
    if size is None or config is None:
        return '<p class="empty">nothing is known of the replay</p>'
    capacity = config.replay_size
    share = min(size / capacity, 1.0)
    facts = {
        "transitions": f"{compact(size)} of {compact(capacity)}",
        "inserted, sampled": f"{compact(view.newest.get('replay_inserted_transitions_total'))}, "
        f"{compact(view.newest.get('replay_sampled_transitions_total'))}",
        "priorities that came too late": _stale(view),
        "age of a batch's experience": _updates(view, "learner_experience_age_updates"),
        "actors are behind by": _updates(view, "head_policy_lag_updates"),
        "actors wait": percent(view.flows.actors_wait),
        "the learner waits": percent(view.flows.learner_waits),
    }
    return (
        f'<div class="fill" role="meter" aria-valuenow="{100 * share:.0f}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-label="fill of the replay">'
        f'<div style="width:{100 * share:.1f}%"></div></div>'
        '<table class="settings facts"><tbody>'
        + "".join(f"<tr><th>{name}</th><td>{fact}</td></tr>" for name, fact in facts.items())
        + "</tbody></table>"
    )


def refused(view: View) -> str:
    """Who of the run refused how much of what came, and why."""
    found = refusals(view.newest)
    if not found:
        return '<p class="empty">every message was accepted</p>'
    body = "".join(
        f'<tr><th scope="row">{role}: {escape(reason)}</th><td>{count:,}</td></tr>'
        for (role, reason), count in found.items()
    )
    return f'<table class="settings facts"><tbody>{body}</tbody></table>'


def _updates(view: View, name: str) -> str:
    value = view.newest.get(name)
    return UNKNOWN if value is None else f"{compact(value)} updates"


def _stale(view: View) -> str:
    """Of those that came for transitions which had been evicted."""
    written = view.newest.get("replay_priorities_total")
    stale = view.newest.get("replay_stale_priorities_total")
    return UNKNOWN if not written or stale is None else f"{stale / (written + stale):.1%}"


def settings(found: Sequence[Setting], first: str, second: str | None, only: bool) -> str:
    """A configuration, or two side by side. `only`: leave out what is equal."""
    kept = [s for s in found if s.differs or not only or second is None]
    if not kept:
        same = "the two configurations are the same" if found else "no configuration is known"
        return f'<p class="empty">{same}</p>'
    head = "" if second is None else (
        f"<thead><tr><th></th><th>{escape(first)}</th><th>{escape(second)}</th></tr></thead>"
    )  # fmt: skip
    body = "".join(
        f'<tr class="{"differs" if s.differs else ""}"><th scope="row">{escape(s.name)}</th>'
        f"<td>{escape(s.value)}</td>"
        + ("" if second is None else f"<td>{escape(s.other)}</td>")
        + "</tr>"
        for s in kept
    )
    alone = "alone" if second is None else ""
    return f'<table class="settings {alone}">{head}<tbody>{body}</tbody></table>'


def notes(lines: Sequence[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)
