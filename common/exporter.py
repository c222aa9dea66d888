"""A process's metrics for Prometheus, at an address of its own.

What a scrape gets is the newest snapshot that left with a heartbeat, so scraping costs the loops
nothing and cannot hold them up.
"""

import errno
import hmac
import socket as host_names
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common import transport
from common.errors import AddressInUse, ConfigError
from common.health import Health
from common.keys import metrics_token
from common.metric_table import METRICS
from common.metrics import Histograms, Kind, Telemetry, Values
from common.security import NOTHING_TOLD, Security

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

PREFIX = "zapex_"
LABELS = ("run", "role", "number")


@dataclass(frozen=True, slots=True)
class MetricsOptions:
    """Where a process shows its metrics, if anywhere. Raises ConfigError where there is no such
    port."""

    metrics_port: int | None = None
    """Port for Prometheus to scrape this process; 0 takes a free one; none: it cannot."""
    metrics_host: str = "127.0.0.1"
    """Address of the interface that it can be scraped at."""

    def __post_init__(self) -> None:
        if self.metrics_port is not None and not 0 <= self.metrics_port < 1 << 16:
            raise ConfigError(
                f"--metrics-port {self.metrics_port}: a port is at most 65535 (0 takes a free one)"
            )


NO_METRICS = MetricsOptions()


class Exporter:
    """Serves until `close`; `show` what there is once it is known.

    On loopback everybody may read. Elsewhere a reader shows a token, as Prometheus does with
    `authorization: {credentials_file: …}`.

    Args:
        security: of this process; the token is in its key directory or in ZAPEX_METRICS_TOKEN.

    Raises:
        AddressInUse: the port is taken.
        ConfigError: prometheus-client is not installed, there is no such interface, or other hosts
            could read without a token and that is not allowed.
    """

    def __init__(self, options: MetricsOptions, security: Security = NOTHING_TOLD) -> None:
        self._shown: tuple[tuple[Telemetry, ...], tuple[str, ...]] = (), ()
        self._server: WSGIServer | None = None
        self.health = Health()
        """Asked at the same address."""
        self.endpoint = ""
        """host:port, as others reach it; empty: this process shows nothing."""
        if options.metrics_port is not None:
            self._serve(options.metrics_host, options.metrics_port, security)

    def _serve(self, host: str, port: int, security: Security) -> None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError as error:
            raise ConfigError(
                "--metrics-port needs the package prometheus-client: pip install 'zapex[metrics]'"
            ) from error
        local = transport.is_local(f"tcp://{f'[{host}]' if ':' in host else host}:{port}")
        token = None if local else metrics_token(security.keys)
        if token is None and not local and not security.insecure:
            raise ConfigError(
                f"refusing to show metrics at {host}: anyone who can reach it could read them. Set "
                "ZAPEX_METRICS_TOKEN to what readers must show (with --keys DIR it is in "
                "DIR/metrics.token), use --metrics-host 127.0.0.1, or add --insecure on a network "
                "you trust"
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
        app: Any = server.get_app()
        if token is not None:
            # Until `show` is called there is nothing to read.
            app = _guarded(app, token)
        server.set_app(self.health.beside(app))
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


def _guarded(app: Any, token: str) -> Callable[..., Any]:
    """The same WSGI application for those who show the token."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        scheme, _, shown = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        # How long the answer takes tells nothing of the token.
        known = hmac.compare_digest(shown.strip().encode("latin-1"), token.encode())
        if scheme.lower() == "bearer" and known:
            return app(environ, start_response)
        start_response("401 Unauthorized", [("WWW-Authenticate", "Bearer")])
        return [b""]

    return guarded


def families(values: Values, histograms: Histograms, labels: tuple[str, ...]) -> Iterator[Any]:
    """Prometheus's metric families; `labels`: what `LABELS` are."""
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    for name, value in values.items():
        metric = METRICS.get(name)
        if metric is None:
            continue  # A part, which is shown with its counter.
        if metric.parts:
            by_part = CounterMetricFamily(
                PREFIX + name, metric.meaning, labels=(*LABELS, metric.label)
            )
            for part in metric.parts:
                by_part.add_metric((*labels, part), values.get(f"{name}.{part}", 0.0))
            yield by_part
            continue
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
