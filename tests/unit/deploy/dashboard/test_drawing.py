"""The picture of a topology: what it says, that it is a picture, and that nothing covers a box."""

from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import pytest

from deploy.dashboard.catalogue import State
from deploy.dashboard.drawing import TALL, WIDE, Layout, Node, Topology, draw, tones, topology
from deploy.dashboard.flows import Flows
from tests.unit.deploy.dashboard.views import view

SVG = "{http://www.w3.org/2000/svg}"
FLOWS = Flows(
    env_steps=3_210.0,
    updates=50.0,
    inserts=3_200.0,
    samples=5_000.0,
    priorities=4_900.0,
    actors_wait=0.62,
    learner_waits=0.02,
)


def member(role: str, number: int = 0, **more: Any) -> dict[str, Any]:
    return {"role": role, "number": number, "host": "h", "num_envs": 0, "values": {}, **more}


MEMBERS = [
    member("actor", 0, num_envs=4),
    member("actor", 1, num_envs=4, host="other"),
    member("replay_server"),
    member("evaluator"),
    member("inference"),
]


def whole() -> Topology:
    newest = {"updates": 12_345, "head_policy_lag_updates": 20.0, "replay_transitions": 3_200.0}
    return topology(view(flows=FLOWS, newest=newest, status={"members": MEMBERS}))


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [element.text or "" for element in root.iter() if element.tag.endswith("text")]


def test_it_says_who_is_there_and_what_flows() -> None:
    found = whole()
    assert found.nodes["actors"] == Node(
        "2 actors",
        ("8 environments on 2 hosts", "3,210 env steps/s", "1 inference process"),
        0.62,
        "waits",
    )
    assert found.nodes["replay"].lines == ("3,200 of 6,400", "50% full")
    assert found.nodes["learner"] == Node(
        "Learner", ("50 updates/s", "12.3k so far"), 0.02, "works"
    )
    assert found.nodes["evaluator"].lines == ("greedy 123",)
    assert found.edges["insert"] == ("3,200 transitions/s",)
    assert found.edges["sample"] == ("5,000 samples/s", "50 batches/s")  # 5000 / 100
    assert found.edges["weights"] == ("weights, 2/s", "lag 20 updates")  # 50 / 25
    assert "actors wait 62%" in found.summary


@pytest.mark.parametrize(
    ("actors", "learner", "colours"),
    [
        (None, None, ("plain", "plain")),
        (0.0, 0.09, ("works", "works")),
        (0.1, 0.49, ("waits", "waits")),
        # Actors may wait for a learner that is busy, a learner should wait for nobody.
        (0.9, 0.0, ("waits", "works")),
        (0.0, 0.5, ("works", "starves")),
        (0.5, 0.5, ("starves", "starves")),
    ],
)
def test_who_waits_has_another_colour(
    actors: float | None, learner: float | None, colours: tuple[str, str]
) -> None:
    assert tones(actors, learner) == colours


def test_of_a_run_that_tells_nothing_what_its_configuration_tells_is_shown() -> None:
    found = topology(view(state=State.KILLED, score=None))
    assert found.nodes["actors"].lines[0] == "8 environments"
    assert found.nodes["evaluator"].lines == ("greedy –",)
    bare = topology(view(state=State.KILLED, config=None))
    assert bare.nodes["actors"].title == "0 actors"
    assert bare.edges["weights"] == ("weights",)


@pytest.mark.parametrize("layout", [WIDE, TALL])
def test_it_is_well_formed_and_says_all_of_it(layout: Layout) -> None:
    found = whole()
    told = texts(draw(found, layout))
    wanted = [node.title for node in found.nodes.values()]
    wanted += [text for node in found.nodes.values() for text in node.lines]
    wanted += [text for edge in found.edges.values() for text in edge]
    assert sorted(told) == sorted([*wanted, "waits 62%", "waits 2%"])


@pytest.mark.parametrize("layout", [WIDE, TALL])
def test_what_comes_from_the_wire_is_text_and_nothing_else(layout: Layout) -> None:
    nodes = {"actors": Node('<script>alert("x")</script>', ("a & b",))}
    svg = draw(Topology(nodes, {"insert": ("<b>",)}, '"><script>'), layout)
    assert "<script" not in svg
    assert "<b>" not in svg
    assert '<script>alert("x")</script>' in texts(svg)


@pytest.mark.parametrize("layout", [WIDE, TALL])
def test_no_box_covers_another_and_all_are_inside(layout: Layout) -> None:
    for a, b in combinations(layout.boxes.values(), 2):
        apart = (
            a.x + a.width <= b.x
            or b.x + b.width <= a.x
            or a.y + a.height <= b.y
            or b.y + b.height <= a.y
        )
        assert apart
    for box in layout.boxes.values():
        assert min(box.x, box.y) >= 0
        assert box.x + box.width <= layout.width
        assert box.y + box.height <= layout.height
