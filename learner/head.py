"""The head: who belongs to the run. Messages in, replies out; no sockets, no clock.

An actor is taken in once a replay server serves. Each gets the lowest free number and the lowest
free stretch of the ε ladder, so that the ladder keeps its shape when actors come and go. A member
that is silent for `SILENCE_S` is gone; one whose environments are slow is not silent
(`common/deadlines.py`).
"""

import logging
import secrets
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from common.errors import MalformedMessage, Reason, WireError
from common.manifest import Manifest
from common.messages import (
    Directive,
    EvalResult,
    Heartbeat,
    Join,
    Leave,
    Message,
    Refused,
    Serving,
    Welcome,
)
from common.rejections import Rejections, quoted
from learner.admission import MAX_ENVS, MAX_MEMBERS, LineBudget, check_join, check_serving
from learner.members import ANSWER_PERIOD_S, Member, Services
from learner.run_metrics import RunMetrics

Reply = tuple[bytes, Message]

SILENCE_S = 15.0
ANY_NUMBER = -1
RECENT_EPISODES = 100
RECENT_OF_ENV = 20
MAX_NEW_EPISODES = 10_000
"""Kept for the next record."""
MAX_WAITING = 10_000
"""Joins kept until a replay server serves."""
MAX_RETURN = 1e30
"""Returns beyond this are no returns: their sums would not be numbers."""

log = logging.getLogger(__name__)


class Head:
    """Membership of one run.

    Args:
        weights_endpoint: where members subscribe to weights.
        epoch: starts of the learner within the run before this one.
        new_session: a number never given before; actors' inserts are told apart by it.
    """

    def __init__(
        self,
        manifest: Manifest,
        weights_endpoint: str,
        epoch: int = 0,
        new_session: Callable[[], int] = lambda: secrets.randbits(62),
    ) -> None:
        self.rejections = Rejections("head_rejected_messages_total")
        self._lines = LineBudget()
        self._manifest = manifest
        self._plain_manifest = manifest.to_plain()
        self._weights_endpoint = weights_endpoint
        self._new_session = new_session
        self._epoch = epoch
        self._waiting: dict[bytes, Join] = {}
        self._incarnations: Counter[tuple[str, int]] = Counter()
        self.members: dict[int, Member] = {}
        self._revision = 0
        """Changes with whatever a directive may say."""
        # What heartbeats are answered with is worked out when members come and go, not each time.
        self.ladder_size = 0
        """M: environments the configuration expects, or more when more have joined."""
        self._services = Services()
        self._replaced: set[int] = set()
        """Numbers of replay servers whose successor is being taken in."""
        self.evaluator: int | None = None
        """The session of the one that came last."""
        self.run_state = "run"
        self._members_changed()
        self.recent_returns: deque[float] = deque(maxlen=RECENT_EPISODES)
        """Raw returns of the newest training episodes, whatever their ε."""
        self.episodes = 0
        """Training episodes that ended since this process began."""
        self.metrics = RunMetrics()
        self._new_returns: list[float] = []
        self._new_lengths: list[int] = []
        self.lost: dict[str, int] = {}
        """Members that fell silent, by role."""
        self._evaluations: list[EvalResult] = []
        self._handlers: dict[type[Message], Callable[[bytes, Message, float], list[Reply]]] = {
            Join: self._on_join,  # type: ignore[dict-item]
            Serving: self._on_serving,  # type: ignore[dict-item]
            Heartbeat: self._on_heartbeat,  # type: ignore[dict-item]
            EvalResult: self._on_eval_result,  # type: ignore[dict-item]
            Leave: self._on_leave,  # type: ignore[dict-item]
        }

    def handle(self, peer: bytes, message: Message, now_s: float) -> list[Reply]:
        """Take a message from a peer; returns what to send. `now_s` is monotonic, in seconds."""
        handler = self._handlers.get(type(message))
        try:
            if handler is None:
                raise MalformedMessage(
                    f"a head does not take {message.kind!r}", Reason.UNKNOWN_KIND
                )
            return handler(peer, message, now_s)
        except WireError as error:
            return [(peer, self.refuse(error, now_s))]

    def refuse(self, error: WireError, now_s: float) -> Refused:
        """Count a message that is not accepted, and say so."""
        self.rejections.count(error, now_s)
        return Refused(str(error))

    def tick(self, now_s: float) -> list[Reply]:
        """Drop members that have been silent for too long."""
        silent = [m for m in self.members.values() if now_s - m.last_heard_s > SILENCE_S]
        for member in silent:
            if self._lines.allows(now_s):
                log.warning(
                    "%s %d (%s, pid %d) has been silent for %.0f s: gone",
                    member.role, member.number, quoted(member.host), member.pid, SILENCE_S,
                )  # fmt: skip
            self.lost[member.role] = self.lost.get(member.role, 0) + 1
        return self._remove(silent)

    def set_run_state(self, run_state: str) -> list[Reply]:
        """Tell every member at once: run or stop."""
        self.run_state = run_state
        self._revision += 1
        return self._directives()

    def take_episodes(self) -> tuple[list[float], list[int]]:
        """Raw returns and lengths of training episodes that ended since the last call."""
        taken = self._new_returns, self._new_lengths
        self._new_returns, self._new_lengths = [], []
        return taken

    def take_evaluations(self) -> list[EvalResult]:
        """Results that came since the last call."""
        taken, self._evaluations = self._evaluations, []
        return taken

    def of_role(self, role: str) -> list[Member]:
        """Members of a role by number."""
        members = (m for m in self.members.values() if m.role == role)
        return sorted(members, key=lambda m: m.number)

    @property
    def replay_servers(self) -> dict[int, Serving]:
        """Those that serve, by number; another dict after any change."""
        return self._services.replay_servers

    def _members_changed(self) -> None:
        self._revision += 1
        members = self.members.values()
        ends = [m.first_env_index + m.num_envs for m in members if m.role == "actor"]
        self.ladder_size = max([self._manifest.config.expected_envs, *ends])
        self._services.update(members, self._replaced)
        evaluators = [m.session for m in members if m.role == "evaluator"]
        self.evaluator = evaluators[-1] if evaluators else None

    # ------------------------------------------------------------------------------------ messages

    def _on_join(self, peer: bytes, join: Join, now_s: float) -> list[Reply]:
        check_join(join)
        # One that waits and lost its connection asks again under another address.
        self._waiting = {p: j for p, j in self._waiting.items() if j.token != join.token}
        replaced = [m for m in self.members.values() if self._replaces(peer, join, m)]
        self._replaced = {m.number for m in replaced if m.role == "replay_server"}
        replies = self._remove(replaced)
        self._replaced = set()
        if replaced and join.preferred_number == ANY_NUMBER:
            # Its files are known by its number.
            join = replace(join, preferred_number=min(m.number for m in replaced))
        if join.role == "replay_server":
            reason = self._reason_against(join)
            if reason:
                return [*replies, (peer, self.refuse(WireError(reason), now_s))]
        elif not self.replay_servers:
            if peer not in self._waiting and len(self._waiting) >= MAX_WAITING:
                error = MalformedMessage(
                    "too many processes wait for a replay server", Reason.FLOOD
                )
                return [*replies, (peer, self.refuse(error, now_s))]
            self._waiting[peer] = join
            return replies
        return [*replies, *self._admit(peer, join, now_s)]

    def _reason_against(self, join: Join) -> str:
        """Why a replay server cannot be taken in; empty: it can."""
        wanted = self._manifest.config.replay_servers
        if join.preferred_number >= wanted:
            return (
                f"this run has replay_servers = {wanted}, numbered from 0: there is no number "
                f"{join.preferred_number}"
            )
        if len(self.of_role("replay_server")) < wanted:
            return ""
        whole = "its replay server" if wanted == 1 else f"its {wanted} replay servers"
        return f"this run has {whole}; start another run, or wait for one to go"

    @staticmethod
    def _replaces(peer: bytes, join: Join, member: Member) -> bool:
        """Whether a join is by the member's own process, or by the one started in its place."""
        if member.peer == peer:  # A connection has one member, however often it joins.
            return True
        if (member.role, member.host) != (join.role, join.host):
            return False
        successor = join.take_over and join.preferred_number in (member.number, ANY_NUMBER)
        return successor or member.token == join.token

    def _admit(self, peer: bytes, join: Join, now_s: float) -> list[Reply]:
        num_envs = join.num_envs or self._manifest.config.envs_per_actor
        is_actor = join.role == "actor"
        envs = sum(m.num_envs for m in self.members.values())
        if len(self.members) >= MAX_MEMBERS or (is_actor and envs + num_envs > MAX_ENVS):
            error = MalformedMessage(
                f"this run has {len(self.members)} processes with {envs} environments: no more "
                "are taken in",
                Reason.FLOOD,
            )
            return [(peer, self.refuse(error, now_s))]
        member = Member(
            session=self._new_session(),
            role=join.role,
            number=self._free_number(join.role, join.preferred_number),
            host=join.host,
            machine=join.machine,
            pid=join.pid,
            token=join.token,
            peer=peer,
            first_env_index=self._free_stretch(num_envs) if is_actor else 0,
            num_envs=num_envs if is_actor else 0,
            last_heard_s=now_s,
            metrics_endpoint=join.metrics_endpoint,
        )
        self._incarnations[join.role, member.number] += 1
        self.members[member.session] = member
        number = member.number if join.role == "replay_server" else None
        self.metrics.begin(member.session, join.token, number)
        self._members_changed()
        if self._lines.allows(now_s):
            log.info(
                "%s %d joined from %s (pid %d)",
                join.role, member.number, quoted(join.host), join.pid,
            )  # fmt: skip
        welcome = Welcome(
            session=member.session,
            number=member.number,
            epoch=self._epoch,
            incarnation=self._incarnations[join.role, member.number] - 1,
            first_env_index=member.first_env_index,
            ladder_size=self.ladder_size,
            manifest=self._plain_manifest,
            weights_endpoint=self._weights_endpoint,
            replay_endpoint=self._services.replay_endpoint(member),
            inference_endpoint=self._services.inference_endpoint(member),
            relay_endpoint=self._services.relay_endpoint(member),
        )
        return [(peer, welcome)]

    def _on_serving(self, peer: bytes, serving: Serving, now_s: float) -> list[Reply]:
        member = self.members.get(serving.session)
        if member is None or member.role not in ("inference", "relay", "replay_server"):
            return [(peer, self._rejoin(serving.session, now_s))]
        check_serving(serving)
        member.last_heard_s = now_s
        if member.serving == serving:
            return []  # Said again after a new connection.
        member.serving = serving
        self._members_changed()
        if self._lines.allows(now_s):
            log.info("%s %d serves at %s", member.role, member.number, quoted(serving.endpoint))
        replies = self._directives()
        if member.role != "replay_server":
            return replies
        waiting, self._waiting = self._waiting, {}
        for waiting_peer, join in waiting.items():
            replies += self._admit(waiting_peer, join, now_s)
        return replies

    def _on_heartbeat(self, peer: bytes, heartbeat: Heartbeat, now_s: float) -> list[Reply]:
        member = self.members.get(heartbeat.session)
        if member is None:
            return [(peer, self._rejoin(heartbeat.session, now_s))]
        knows = (
            member.peer == peer
            and member.answered_revision == self._revision
            and now_s - member.answered_s < ANSWER_PERIOD_S
        )
        member.peer, member.last_heard_s = peer, now_s
        member.values = self.metrics.add(member.session, heartbeat.values, heartbeat.histograms)
        self._take_episodes(member, heartbeat, now_s)
        if knows:
            return []
        member.answered_s, member.answered_revision = now_s, self._revision
        return [(peer, self._directive(member))]

    def _take_episodes(self, member: Member, heartbeat: Heartbeat, now_s: float) -> None:
        columns = heartbeat.episode_return, heartbeat.episode_length, heartbeat.episode_env
        if not any(map(len, columns)):
            return
        if len({len(column) for column in columns}) != 1:
            error = MalformedMessage("heartbeat: episodes that are no table", Reason.SHAPE)
            self.rejections.count(error, now_s)
            return
        for value, length, env in zip(*(column.tolist() for column in columns), strict=True):
            if not (abs(value) <= MAX_RETURN and 0 <= env < member.num_envs and length >= 0):
                error = MalformedMessage("heartbeat: an impossible episode", Reason.RANGE)
                self.rejections.count(error, now_s)
                continue
            self.recent_returns.append(value)
            self.episodes += 1
            if len(self._new_returns) < MAX_NEW_EPISODES:
                self._new_returns.append(value)
                self._new_lengths.append(length)
            of_env = member.returns.setdefault(env, deque(maxlen=RECENT_OF_ENV))
            of_env.append(value)

    def _on_eval_result(self, peer: bytes, result: EvalResult, now_s: float) -> list[Reply]:
        member = self.members.get(result.session)
        if member is None or member.role != "evaluator":
            return [(peer, self._rejoin(result.session, now_s))]
        member.last_heard_s = now_s
        returns = result.episode_return
        if len(returns) and (np.abs(returns) <= MAX_RETURN).all():  # Nor is one NaN.
            self._evaluations.append(result)
            return []
        error = MalformedMessage("eval_result: a score that is no number", Reason.NON_FINITE)
        self.rejections.count(error, now_s)
        return []

    def _on_leave(self, peer: bytes, leave: Leave, now_s: float) -> list[Reply]:
        member = self.members.get(leave.session)
        if self._lines.allows(now_s):
            who = f"{member.role} {member.number}" if member else "one that was gone already"
            log.info("%s left: %s", who, quoted(leave.reason))
        return self._remove([member]) if member else []

    # --------------------------------------------------------------------------------------- parts

    def _remove(self, members: list[Member]) -> list[Reply]:
        for member in members:
            del self.members[member.session]
        if members:
            self._members_changed()
        self.metrics.forget(member.session for member in members)
        served = any(member.serving is not None for member in members)
        return self._directives() if served else []

    def _directives(self) -> list[Reply]:
        """To all at once, for what cannot wait. Another length of the ladder, or another replay
        server because actors came or went, can: each member hears of it with the answer to its next
        heartbeat, and a thousand actors that join at once do not cost a million messages."""
        return [(m.peer, self._directive(m)) for m in self.members.values()]

    def _directive(self, member: Member) -> Directive:
        return Directive(
            member.session,
            self.run_state,
            self.ladder_size,
            self._services.replay_endpoint(member),
            self._services.inference_endpoint(member),
            self._services.relay_endpoint(member),
        )

    def _rejoin(self, session: int, now_s: float) -> Directive:
        error = MalformedMessage("a member that is none (any more)", Reason.UNKNOWN_SESSION)
        self.rejections.count(error, now_s)
        return Directive(session, "rejoin", self.ladder_size)

    def _free_number(self, role: str, preferred: int) -> int:
        taken = {m.number for m in self.of_role(role)}
        if 0 <= preferred < MAX_MEMBERS and preferred not in taken:
            return preferred
        return next(n for n in range(len(taken) + 1) if n not in taken)

    def _free_stretch(self, num_envs: int) -> int:
        """The lowest place on the ladder with room for `num_envs` environments."""
        place = 0
        for member in sorted(self.of_role("actor"), key=lambda m: m.first_env_index):
            if member.first_env_index - place >= num_envs:
                break
            place = max(place, member.first_env_index + member.num_envs)
        return place
