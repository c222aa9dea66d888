"""The topology of a run as a picture: who sends what to whom, how much, and who waits.

    actors → replay → learner, weights back to the actors        (docs/journey.md)

Two layouts of one picture: beside each other, and one below the other for narrow screens. Names
come from the wire, so all text is escaped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from deploy.dashboard.catalogue import State
from deploy.dashboard.flows import STARVES, WAITS, diagnosis
from deploy.dashboard.numbers import compact, percent
from deploy.dashboard.observatory import View


@dataclass(frozen=True, slots=True)
class Node:
    """A role's processes."""

    title: str
    lines: tuple[str, ...]
    wait: float | None = None
    """Share of the time that they wait, 0 to 1; None: that is not known, or means nothing."""
    tone: str = "plain"
    """The CSS class of its colour: plain, works, waits or starves."""


def tones(actors: float | None, learner: float | None) -> tuple[str, str]:
    """Of actors and learner, who wait for these shares of the time.

    A learner that waits for half of it starves. Actors may wait for a busy learner as long as they
    like: that is what the rate limiter is for.
    """
    a, b = actors or 0.0, learner or 0.0
    of_learner = "starves" if b >= STARVES else "waits" if b >= WAITS else "works"
    of_actors = "starves" if min(a, b) >= STARVES else "waits" if a >= WAITS else "works"
    return (
        "plain" if actors is None else of_actors,
        "plain" if learner is None else of_learner,
    )


@dataclass(frozen=True, slots=True)
class Topology:
    """What a picture says."""

    nodes: Mapping[str, Node]
    edges: Mapping[str, tuple[str, ...]]
    """Lines of text at each; an edge that is not there is not drawn."""
    summary: str
    """For those who do not see it."""


def topology(view: View) -> Topology:
    """A run's, as far as it is known."""
    found, newest, config = view.flows, view.newest, view.config
    live = view.run.state is State.RUNNING
    members = (view.status or {}).get("members", [])
    roles = [str(member.get("role")) for member in members]
    actors = [member for member in members if member.get("role") == "actor"]
    count = len(actors) or (config.actors if config else 0)
    envs = sum(m.get("num_envs", 0) for m in actors) or (config.expected_envs if config else 0)
    hosts = {str(m.get("host")) for m in actors}
    of_actors, of_learner = tones(found.actors_wait, found.learner_waits)
    inference = roles.count("inference")
    mean = "" if live else "on average "
    nodes = {
        "actors": Node(
            _several(count, "actor").capitalize(),
            (
                f"{_several(envs, 'environment')}"
                + (f" on {len(hosts)} hosts" if len(hosts) > 1 else ""),
                f"{compact(found.env_steps)} env steps/s",
                *([f"{inference} inference process" + "es" * (inference > 1)] if inference else []),
            ),
            found.actors_wait,
            of_actors,
        ),
        "replay": Node("Replay", _replay_lines(view)),
        "learner": Node(
            "Learner",
            (
                f"{compact(found.updates)} updates/s",
                f"{compact(newest.get('updates'))} so far",
            ),
            found.learner_waits,
            of_learner,
        ),
    }
    batches = found.samples / config.batch_size if config and found.samples is not None else None
    lag = newest.get("head_policy_lag_updates")
    edges = {
        "insert": (f"{compact(found.inserts)} transitions/s",),
        "sample": (f"{compact(found.samples)} samples/s", f"{compact(batches)} batches/s"),
        "priorities": (f"{compact(found.priorities)} priorities/s",),
        "weights": (
            f"weights, {compact(found.updates / config.publish_period)}/s"
            if config and found.updates is not None
            else "weights",
            *([f"lag {compact(lag)} updates"] if live and lag is not None else []),
        ),
    }
    if "evaluator" in roles or not members:
        score = view.run.score
        nodes["evaluator"] = Node("Evaluator", (f"greedy {compact(score)}",))
        edges["evaluate"] = ()
    shares = f"actors wait {percent(found.actors_wait)}, the learner {percent(found.learner_waits)}"
    return Topology(nodes, edges, f"{nodes['actors'].title} {mean}send {edges['insert'][0]} to the "
                    f"replay; the learner gets {edges['sample'][0]}; {shares} of the time. "
                    f"{diagnosis(found)}")  # fmt: skip


def _replay_lines(view: View) -> tuple[str, ...]:
    size, config = view.newest.get("replay_transitions"), view.config
    if config is None:
        return (f"{compact(size)} transitions",)
    capacity = config.replay_size
    full = "" if size is None else f"{min(size / capacity, 1.0):.0%} full"
    return f"{compact(size)} of {compact(capacity)}", full


def _several(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


# ------------------------------------------------------------------------------------- the picture


@dataclass(frozen=True, slots=True)
class Box:
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Line:
    path: str
    """SVG's path language; the arrow is at its end."""
    x: float
    y: float
    """Baseline of the first line of its text."""
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Layout:
    name: str
    width: float
    height: float
    boxes: Mapping[str, Box]
    lines: Mapping[str, Line]


WIDE = Layout(
    "wide",
    1000,
    300,
    {
        "actors": Box(16, 84, 216, 112),
        "replay": Box(410, 84, 180, 112),
        "learner": Box(784, 84, 200, 112),
        "evaluator": Box(410, 232, 180, 60),
    },
    {
        "insert": Line("M232 140 H404", 320, 128),
        "sample": Line("M590 120 H778", 687, 92),
        "priorities": Line("M784 160 H596", 687, 180),
        "weights": Line("M884 84 V36 Q884 24 872 24 H136 Q124 24 124 36 V78", 500, 44),
        "evaluate": Line("M884 196 V250 Q884 262 872 262 H596", 740, 252),
    },
)
TALL = Layout(
    "tall",
    360,
    608,
    {
        "actors": Box(16, 12, 196, 112),
        "replay": Box(16, 192, 196, 96),
        "learner": Box(16, 400, 196, 104),
        "evaluator": Box(16, 544, 196, 56),
    },
    {
        "insert": Line("M100 124 V186", 112, 160, "start"),
        "sample": Line("M44 288 V394", 56, 318, "start"),
        "priorities": Line("M194 400 V294", 182, 376, "end"),
        "weights": Line("M212 452 H332 Q344 452 344 440 V80 Q344 68 332 68 H218", 334, 236, "end"),
        "evaluate": Line("M100 504 V538", 112, 526, "start"),
    },
)
LINE_HEIGHT = 18
BAR_HEIGHT = 5


def draw(what: Topology, layout: Layout) -> str:
    """The picture as an SVG element, coloured by the page's style."""
    marker = f"arrow-{layout.name}"
    size = f"0 0 {layout.width:g} {layout.height:g}"
    label = escape(what.summary)
    parts = [
        f'<svg class="topology {layout.name}" viewBox="{size}" role="img" aria-label="{label}">',
        f'<defs><marker id="{marker}" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" ',
        'markerHeight="7" orient="auto"><path class="head" d="M0 0 L8 4 L0 8 z"/></marker></defs>',
    ]
    for name, texts in what.edges.items():
        line = layout.lines[name]
        parts.append(f'<path class="edge {name}" d="{line.path}" marker-end="url(#{marker})"/>')
        parts += [
            f'<text class="flow {name}" x="{line.x:g}" y="{line.y + i * LINE_HEIGHT:g}" '
            f'text-anchor="{line.anchor}">{escape(text)}</text>'
            for i, text in enumerate(texts)
        ]
    parts += [_draw_node(name, node, layout.boxes[name]) for name, node in what.nodes.items()]
    return "".join([*parts, "</svg>"])


def _draw_node(name: str, node: Node, box: Box) -> str:
    left, top = box.x + 14, box.y + 24
    parts = [
        f'<g class="node {name} {node.tone}"><rect class="box" x="{box.x:g}" y="{box.y:g}" ',
        f'width="{box.width:g}" height="{box.height:g}" rx="10"/>',
        f'<text class="title" x="{left:g}" y="{top:g}">{escape(node.title)}</text>',
    ]
    parts += [
        f'<text class="fact" x="{left:g}" y="{top + (i + 1) * LINE_HEIGHT:g}">{escape(line)}</text>'
        for i, line in enumerate(node.lines)
    ]
    if node.wait is not None:
        width, bottom = box.width - 28, box.y + box.height
        parts.append(
            f'<text class="fact wait" x="{left:g}" y="{bottom - 18:g}">waits {percent(node.wait)}'
            f'</text><rect class="track" x="{left:g}" y="{bottom - 12:g}" width="{width:g}" '
            f'height="{BAR_HEIGHT}" rx="2.5"/><rect class="bar" x="{left:g}" y="{bottom - 12:g}" '
            f'width="{width * node.wait:.1f}" height="{BAR_HEIGHT}" rx="2.5"/>'
        )
    return "".join([*parts, "</g>"])
