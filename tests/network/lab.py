"""Hosts that are network namespaces, around a switch that is one too.

    host h ── eth0 ───────── veth pair ────────── h ┐
                                                    ├ bridge, in the switch's namespace
    host w ── eth0 ── wire.py (a delay) ──────── w ┘

Nothing of this machine's own network is touched; all is gone with the namespaces. What is done to a
host's link is done on the switch or in that host, and can be taken back. Needs root, iproute2, and
iptables for lost packets.
"""

import contextlib
import ctypes
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.integration.runs import ROOT, Command

_CLONE_NEWNET = 0x40000000
_NETWORK_OF_THREAD = Path("/proc/thread-self/ns/net")
_NETWORK = "10.213.7"
_HOSTS_FILES = Path("/etc/netns")
"""Of each namespace, what `ip netns exec` puts over /etc."""
_QUEUE_MS = 400
"""What a narrow pipe keeps waiting before it drops: the buffer of a home router."""


def missing() -> str:
    """Why there can be no lab here; empty: there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [name for name in ("ip", "tc", "iptables") if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: iproute2, iptables)"
    try:
        with Lab() as lab:
            host = lab.host(wired=True)
            host.narrow(1_000_000)
            host.lose(0.5)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        return f"this kernel cannot do it: {said.strip()}"
    return ""


class Lab:
    """A switch; a context manager that takes everything away at its end."""

    def __init__(self) -> None:
        self._mark = f"zapex-{secrets.token_hex(3)}"
        self.hosts: list[Host] = []
        self._close = contextlib.ExitStack()
        self.switch = f"{self._mark}-switch"

    def __enter__(self) -> "Lab":
        _run("ip", "netns", "add", self.switch)
        with contextlib.ExitStack() as undone:
            undone.callback(_run, "ip", "netns", "delete", self.switch)
            self._on_switch("ip", "link", "add", "bridge", "type", "bridge")
            self._on_switch("ip", "link", "set", "bridge", "up")
            self._close = undone.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    def host(self, *, wired: bool = False) -> "Host":
        """A new host. `wired`: its link can be delayed."""
        index = len(self.hosts) + 1
        host = Host(self, f"{self._mark}-{index}", f"h{index}", f"{_NETWORK}.{index}", wired)
        self.hosts.append(host)
        self._close.callback(host.close)
        host.plug_in()
        return host

    def attach(self, port: str) -> None:
        """Put a port on the switch, which passes its packets on from now on."""
        self._on_switch("ip", "link", "set", port, "master", "bridge")

    def detach(self, port: str) -> None:
        """What comes in at the port goes nowhere, in silence."""
        self._on_switch("ip", "link", "set", port, "nomaster")

    def shape(self, port: str, bytes_per_s: int | None) -> None:
        """Let no more than that out of the port."""
        _shape(self.switch, port, bytes_per_s)

    def _on_switch(self, *words: str) -> None:
        _inside(self.switch, *words)


class Host:
    """One of a lab's."""

    def __init__(self, lab: Lab, namespace: str, port: str, address: str, wired: bool) -> None:
        self._lab, self._port, self._wired = lab, port, wired
        self._wire: subprocess.Popen[str] | None = None
        self._commands: list[Command] = []
        self.namespace, self.address = namespace, address

    def plug_in(self) -> None:
        names = _HOSTS_FILES / self.namespace
        names.mkdir(parents=True)
        self.resolve({})
        _run("ip", "netns", "add", self.namespace)
        if self._wired:
            ends = (self.namespace, "eth0", self._lab.switch, self._port)
            self._wire = subprocess.Popen(
                [sys.executable, "-m", "tests.network.wire", *ends],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            if self._answer() != "ready\n":
                raise OSError("no TAP devices")
        else:
            peer = ["type", "veth", "peer", "name", self._port, "netns", self._lab.switch]
            _run("ip", "link", "add", "eth0", "netns", self.namespace, *peer)
        _inside(self._lab.switch, "ip", "link", "set", self._port, "up")
        self._lab.attach(self._port)
        self._here("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            self._here("ip", "link", "set", device, "up")

    # ------------------------------------------------------------------------------------ its link

    def cut(self) -> None:
        """A partition: nothing passes, and nobody is told."""
        self._lab.detach(self._port)

    def rejoin(self) -> None:
        self._lab.attach(self._port)

    def deafen(self) -> None:
        """Nothing reaches it; what it sends arrives."""
        self._drop("-i", "eth0")

    def lose(self, fraction: float) -> None:
        """Of all packets to it and from it."""
        chance = ["-m", "statistic", "--mode", "random", "--probability", str(fraction)]
        # Where packets arrive: whoever sent one would be told that it was dropped at once.
        for host in self._lab.hosts:
            host._drop(*([] if host is self else ["-s", self.address]), *chance)

    def hear(self) -> None:
        """No packets are dropped any more."""
        for host in self._lab.hosts:
            host._here("iptables", "-F", "INPUT")

    def _drop(self, *which: str) -> None:
        self._here("iptables", "-A", "INPUT", *which, "-j", "DROP")

    def narrow(self, bytes_per_s: int | None) -> None:
        """Each way; None: as fast as memory."""
        _shape(self.namespace, "eth0", bytes_per_s)
        self._lab.shape(self._port, bytes_per_s)

    def delay(self, delay_ms: int) -> None:
        """Each way."""
        assert self._wire is not None
        assert self._wire.stdin is not None
        self._wire.stdin.write(f"{delay_ms}\n")
        self._wire.stdin.flush()
        assert self._answer() == "done\n"

    def move(self) -> None:
        """To another address of the network: the old one answers no more."""
        network, _, number = self.address.rpartition(".")
        self._here("ip", "address", "delete", f"{self.address}/24", "dev", "eth0")
        self.address = f"{network}.{int(number) + 100}"
        self._here("ip", "address", "add", f"{self.address}/24", "dev", "eth0")

    def resolve(self, names: dict[str, str]) -> None:
        """Addresses by name, for all who look one up from now on."""
        lines = [f"{address} {name}\n" for name, address in names.items()]
        # In its place: processes of this host have this very file, not its name.
        (_HOSTS_FILES / self.namespace / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(lines)
        )

    # ------------------------------------------------------------------------------- what it runs

    def start(self, directory: Path, *words: str) -> Command:
        """`python -m WORDS` on this host."""
        within = ["ip", "netns", "exec", self.namespace]
        self._commands.append(Command(directory, *words, within=within))
        return self._commands[-1]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and threads that it starts, are on this host; what they connect stays so."""
        with _NETWORK_OF_THREAD.open() as before, _file_of(self.namespace).open() as here:
            enter_network(here.fileno())
            try:
                yield
            finally:
                enter_network(before.fileno())

    def close(self) -> None:
        """End what runs here, and the host itself."""
        for command in self._commands:
            command.kill_family()
        if self._wire is not None:
            self._wire.kill()
            self._wire.communicate()
        shutil.rmtree(_HOSTS_FILES / self.namespace)
        if _file_of(self.namespace).exists():
            _run("ip", "netns", "delete", self.namespace)

    def _answer(self) -> str:
        """The wire's next line."""
        assert self._wire is not None
        assert self._wire.stdout is not None
        return self._wire.stdout.readline()

    def _here(self, *words: str) -> None:
        _inside(self.namespace, *words)


def enter_network(descriptor: int) -> None:
    """Make the network namespace of an open file this thread's."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _file_of(namespace: str) -> Path:
    return Path("/run/netns") / namespace


def _shape(namespace: str, device: str, bytes_per_s: int | None) -> None:
    if bytes_per_s is None:
        _inside(namespace, "tc", "qdisc", "delete", "dev", device, "root")
        return
    rate = [f"{bytes_per_s * 8}bit", "burst", "32k", "latency", f"{_QUEUE_MS}ms"]
    _inside(namespace, "tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", *rate)


def _inside(namespace: str, *words: str) -> None:
    _run("ip", "netns", "exec", namespace, *words)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)
