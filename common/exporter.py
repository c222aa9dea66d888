"""A process's metrics for Prometheus, at an address of its own.

What a scrape gets is the newest snapshot that left with a heartbeat, so scraping costs the loops
nothing and cannot hold them up.
"""

import errno
import socket as host_names
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common import transport
from common.errors import AddressInUse, ConfigError
from common.health import Health
from common.metric_table import METRICS
from common.metrics import Histograms, Kind, Telemetry, Values

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

PREFIX = "zapex_"
LABELS = ("run", "role", "number")


@dataclass(frozen=True, slots=True)
class MetricsOptions:
    """Where a process shows its metrics, if anywhere."""

    metrics_port: int | None = None
    """Port for Prometheus to scrape this process; 0 takes a free one; none: it cannot."""
    metrics_host: str = "127.0.0.1"
    """Address of the interface that it can be scraped at."""
    insecure: bool = False
    """Allow an interface that other hosts reach."""


NO_METRICS = MetricsOptions()


class Exporter:
    """Serves until `close`; `show` what there is once it is known.

    Raises:
        AddressInUse: the port is taken.
        ConfigError: prometheus-client is not installed, there is no such interface, or other hosts
            could read and that is not allowed.
    """

    def __init__(self, options: MetricsOptions) -> None:
        self._shown: tuple[tuple[Telemetry, ...], tuple[str, ...]] = (), ()
        self._server: WSGIServer | None = None
        self.health = Health()
        """Asked at the same address."""
        self.endpoint = ""
        """host:port, as others reach it; empty: this process shows nothing."""
        if options.metrics_port is not None:
            self._serve(options.metrics_host, options.metrics_port, options.insecure)

    def _serve(self, host: str, port: int, insecure: bool) -> None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError as error:
            raise ConfigError(
                "--metrics-port needs the package prometheus-client: pip install 'zapex[watch]'"
            ) from error
        if not insecure and not transport.is_local(f"tcp://{host}:{port}"):
            raise ConfigError(
                f"refusing to show metrics at {host}: anyone who can reach it could read them. Use "
                "--metrics-host 127.0.0.1, or add --insecure on a network you trust"
            )
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            server, _ = start_http_server(port, host, registry)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(
                    f"port {port} for metrics is in use by another process: choose another "
                    "--metrics-port (0 takes a free one)"
                ) from error
            raise ConfigError(f"cannot show metrics at {host}:{port}: {error.strerror}") from error
        server.set_app(self.health.beside(server.get_app()))  # type: ignore[arg-type]
        self._server = server
        # An address that stands for all interfaces is nobody's.
        shown = host_names.gethostname() if host in ("0.0.0.0", "::") else host
        self.endpoint = f"{shown}:{server.server_port}"

    def show(self, run: str, role: str, number: int, *telemetry: Telemetry) -> None:
        """From now on a scrape gets this."""
        self._shown = telemetry, (run, role, str(number))

    def collect(self) -> Iterator[Any]:
        """Called for each scrape, in a thread of the server."""
        shown, labels = self._shown
        for telemetry in shown:
            values, histograms = telemetry.newest
            yield from families(values, histograms, labels)

    def close(self) -> None:
        if self._server is not None:
            # Its loop looks for this every half a second.
            threading.Thread(target=self._server.shutdown, daemon=True).start()
            self._server.server_close()
            self._server = None


def families(values: Values, histograms: Histograms, labels: tuple[str, ...]) -> Iterator[Any]:
    """Prometheus's metric families; `labels`: what `LABELS` are."""
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    for name, value in values.items():
        metric = METRICS[name]
        make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
        family = make(PREFIX + name, metric.meaning, labels=LABELS)
        family.add_metric(labels, value)
        yield family
    for name, counts in histograms.items():
        metric = METRICS[name]
        below, buckets = 0.0, []
        for bound, count in zip([*metric.bounds, "+Inf"], counts[:-1].tolist(), strict=True):
            below += count
            buckets.append((str(bound), below))
        histogram = HistogramMetricFamily(PREFIX + name, metric.meaning, labels=LABELS)
        histogram.add_metric(labels, buckets, float(counts[-1]))
        yield histogram
