"""What Prometheus gets to see, by its own parser over a real connection."""

import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import AddressInUse, ConfigError, Reason
from common.exporter import Exporter, MetricsOptions
from common.keys import add_client, make_directory, open_keys
from common.metric_table import histogram
from common.metrics import Telemetry
from common.security import Security

parser = pytest.importorskip("prometheus_client.parser")
ANY_PORT = MetricsOptions(metrics_port=0)


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    made = Exporter(ANY_PORT)
    yield made
    made.close()


def scraped(exporter: Exporter) -> dict[tuple[str, ...], float]:
    """Values by name and, of histograms, their ranges' bounds; of rejections, their reason."""
    with urllib.request.urlopen(f"http://{exporter.endpoint}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            assert {k: v for k, v in sample.labels.items() if k not in ("le", "reason")} == {
                "run": "r1",
                "role": "actor",
                "number": "3",
            }
            more = [sample.labels[label] for label in ("le", "reason") if label in sample.labels]
            found[sample.name, *more] = sample.value
    return found


def test_a_scrape_shows_the_newest_snapshot(exporter: Exporter) -> None:
    step_s = histogram("actor_step_seconds")
    for value in (0.002, 0.002, 0.2, 1e9):
        step_s.observe(value)
    telemetry = Telemetry(
        lambda: {"actor_env_steps_total": 12.0, "actor_unacknowledged_inserts": 2.0}, [step_s]
    )
    exporter.show("r1", "actor", 3, telemetry)
    assert scraped(exporter) == {}

    telemetry.snapshot()

    found = scraped(exporter)
    assert found["zapex_actor_env_steps_total",] == 12.0
    assert found["zapex_actor_unacknowledged_inserts",] == 2.0
    name = "zapex_actor_step_seconds"
    below = {float(key[1]): value for key, value in found.items() if key[0] == f"{name}_bucket"}
    assert [below[bound] for bound in (0.001, 0.0025, 0.1, 0.25, 60.0, float("inf"))] == [
        0, 2, 2, 3, 3, 4,
    ]  # fmt: skip
    assert found[f"{name}_count",] == 4
    assert found[f"{name}_sum",] == pytest.approx(1e9 + 0.204)


def test_a_process_with_two_offices_shows_the_values_of_both(exporter: Exporter) -> None:
    learner = Telemetry(lambda: {"learner_updates_total": 7.0})
    head = Telemetry(lambda: {"head_actors": 2.0})
    exporter.show("r1", "actor", 3, learner, head)
    learner.snapshot()
    head.snapshot()
    assert scraped(exporter) == {
        ("zapex_learner_updates_total",): 7.0,
        ("zapex_head_actors",): 2.0,
    }


def test_a_counter_by_reason_shows_every_reason_from_the_beginning(exporter: Exporter) -> None:
    """Or the growth from none to the first would be missed."""
    name = "actor_rejected_messages_total"
    telemetry = Telemetry(lambda: {name: 3.0, f"{name}.shape": 2.0, f"{name}.flood": 1.0})
    exporter.show("r1", "actor", 3, telemetry)
    telemetry.snapshot()

    found = scraped(exporter)

    assert {reason for _, reason in found} == set(Reason)
    assert found[f"zapex_{name}", "shape"] == 2.0
    assert sum(found.values()) == 3.0


def test_before_there_is_anything_to_show_a_scrape_is_empty(exporter: Exporter) -> None:
    assert scraped(exporter) == {}


def test_without_a_port_nothing_listens() -> None:
    exporter = Exporter(MetricsOptions())
    assert exporter.endpoint == ""
    exporter.close()


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressInUse, match=f"port {port} for metrics is in use"):
            Exporter(MetricsOptions(metrics_port=port))


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_that_cannot_be_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match=f"--metrics-port {port}: a port is at most 65535"):
        MetricsOptions(port)


def test_an_interface_that_others_reach_is_refused_unless_allowed() -> None:
    with pytest.raises(ConfigError, match="refusing to show metrics at"):
        Exporter(MetricsOptions(0, "0.0.0.0"))
    exporter = Exporter(MetricsOptions(0, "0.0.0.0"), Security(insecure=True))
    # Whoever scrapes it is on another host: it needs a name that leads here.
    assert exporter.endpoint.startswith(f"{socket.gethostname()}:")
    exporter.close()


@pytest.mark.parametrize("source", ["environment", "key directory"])
def test_where_others_reach_it_a_reader_shows_the_token(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_directory(tmp_path / "keys")
    token = (tmp_path / "keys" / "metrics.token").read_text().strip()
    security = Security(open_keys(tmp_path / "keys", {}))
    if source == "environment":
        token, security = "t0ken", Security()
        monkeypatch.setenv("ZAPEX_METRICS_TOKEN", token)
    exporter = Exporter(MetricsOptions(0, "0.0.0.0"), security)
    address = f"http://127.0.0.1:{exporter.endpoint.rpartition(':')[2]}/metrics"
    try:
        for header, status in (
            ({}, 401),
            ({"Authorization": "Bearer "}, 401),
            ({"Authorization": f"Bearer {token}x"}, 401),
            ({"Authorization": f"Basic {token}"}, 401),
            ({"Authorization": f"Bearer {token}"}, 200),
            # Prometheus takes the token from a file, whose last line may end.
            ({"Authorization": f"bearer {token} "}, 200),
        ):
            assert fetched(address, **header) == status
        # There is nothing to change, however one asks.
        for path in ("/", "/metrics?name[]=x", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"):
            assert fetched(address.removesuffix("/metrics") + path) == 401
    finally:
        exporter.close()


def fetched(address: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_on_loopback_nothing_is_asked(tmp_path: Path) -> None:
    make_directory(tmp_path / "keys")
    exporter = Exporter(MetricsOptions(0), Security(open_keys(tmp_path / "keys", {})))
    assert fetched(f"http://{exporter.endpoint}/metrics") == 200
    exporter.close()


def test_a_clients_key_opens_no_metrics_to_others(tmp_path: Path) -> None:
    make_directory(tmp_path / "keys")
    add_client(tmp_path / "keys", "a", tmp_path / "a.key")
    with pytest.raises(ConfigError, match="Set ZAPEX_METRICS_TOKEN to what readers must show"):
        Exporter(MetricsOptions(0, "0.0.0.0"), Security(open_keys(tmp_path / "a.key", {})))


def test_an_interface_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"cannot show metrics at 192\.0\.2\.1:0"):
        Exporter(MetricsOptions(0, "192.0.2.1"), Security(insecure=True))


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match=r"zapex\[metrics\]"):
        Exporter(ANY_PORT)
