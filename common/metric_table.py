"""Every metric of zapex: name, unit, meaning, what a good value looks like, what to do about a bad
one. `docs/metrics.md` is made of this (`python -m common.metric_table`); a test compares the two.
"""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from common.errors import Reason
from common.metrics import Histogram, Kind, Metric

_SECONDS = (
    1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
_UPDATES = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 1e5, 1e6)
_PRIORITIES = tuple(10.0**e for e in range(-6, 3))
_SHARES = tuple(i / 10 for i in range(1, 10))


def _counter(name: str, unit: str, meaning: str, healthy: str, remedy: str) -> Metric:
    return Metric(name, Kind.COUNTER, unit, meaning, healthy, remedy)


def _rejections(name: str, meaning: str, remedy: str, healthy: str = "0.") -> Metric:
    return Metric(
        name, Kind.COUNTER, "messages", meaning, healthy, remedy,
        label="reason", parts=tuple(Reason),
    )  # fmt: skip


def _gauge(
    name: str,
    unit: str,
    meaning: str,
    healthy: str,
    remedy: str,
    combine: Callable[[Sequence[float]], float] = fmean,
) -> Metric:
    return Metric(name, Kind.GAUGE, unit, meaning, healthy, remedy, combine=combine)


def _histogram(
    name: str, unit: str, meaning: str, healthy: str, remedy: str, bounds: tuple[float, ...]
) -> Metric:
    return Metric(name, Kind.HISTOGRAM, unit, meaning, healthy, remedy, bounds)


_METRICS = (
    # ------------------------------------------------------------------------------------- actors
    _counter(
        "actor_env_steps_total", "environment steps", "Steps taken in all its environments.",
        "Grows evenly; all actors of one kind of host at about the same rate.",
        "Compare `actor_blocked_seconds_total`: an actor that does not wait is as fast as its "
        "environments and its network are. More actors than cores make all slower.",
    ),
    _counter(
        "actor_episodes_total", "episodes", "Episodes that ended.",
        "Grows.", "An episode that never ends has no time limit: give the environment one.",
    ),
    _counter(
        "actor_blocked_seconds_total", "s",
        "Time in which it could not go on because its inserts were not acknowledged.",
        "Any share, as long as the learner is busy: the rate limiter holds actors back on purpose.",
        "If actors and learner both wait, the replay server or the network is the bottleneck. If "
        "only actors wait, the learner is: a GPU, or a smaller samples_per_insert.",
    ),
    _gauge(
        "actor_unacknowledged_inserts", "inserts", "Inserts under way.",
        "At most insert_window.", "At the window all the time: see actor_blocked_seconds_total.",
    ),
    _counter(
        "actor_resent_inserts_total", "inserts", "Inserts sent again after a new connection.",
        "0, or a few after a replay server was restarted.",
        "Growing: the connection to the replay server breaks again and again.",
    ),
    _counter(
        "actor_abandoned_inserts_total", "inserts",
        "Inserts that a replay server did not acknowledge before the actor was sent to another.",
        "0, or a window of inserts after a replay server was lost for good.",
        "Growing: replay servers come and go; look at their logs.",
    ),
    _gauge(
        "actor_weights_version", "updates", "Version of the weights that it acts with.",
        "Follows learner_updates_total at a distance of a few publish_period.",
        "Standing still: the actor does not reach the weights' port. Far behind: publish_period is "
        "short for the network's size and the link.",
    ),
    _rejections(
        "actor_rejected_messages_total",
        "What it did not accept of head, replay server or inference process: weights, answers.",
        "They are of another version, or of another run: this actor's log has the reason.",
    ),
    _histogram(
        "actor_step_seconds", "s", "One step of all its environments, inference included.",
        "Narrow. Divide by envs_per_actor for the time of one environment step.",
        "A long tail is an environment with slow resets, or more processes than cores.",
        _SECONDS,
    ),
    _histogram(
        "actor_insert_ack_seconds", "s", "From an insert to its acknowledgement.",
        "Milliseconds, unless the rate limiter holds actors back.",
        "Long although nobody waits for the limiter: the replay server is short of CPU.",
        _SECONDS,
    ),
    # ---------------------------------------------------------------------------------- evaluator
    _counter(
        "evaluator_evaluations_total", "evaluations", "Evaluations finished.",
        "One each eval_period updates.",
        "Fewer: episodes take longer than the time between two; raise eval_period.",
    ),
    _rejections(
        "evaluator_rejected_messages_total",
        "What it did not accept of the head.",
        "As actor_rejected_messages_total.",
    ),
    _gauge(
        "evaluator_weights_version", "updates", "Version of the weights under evaluation.",
        "Follows the learner.", "Far behind: raise eval_period or lower eval_episodes.",
    ),
    # ---------------------------------------------------------------------------------- inference
    _counter(
        "inference_requests_total", "requests", "Requests answered.", "Grows.",
        "Standing still: actors compute by themselves, their logs say why.",
    ),
    _counter(
        "inference_batches_total", "batches", "Batches computed; each answers several requests.",
        "Requests per batch near the number of actors on the host.",
        "One request per batch: too few actors to fill a batch.",
    ),
    _counter(
        "inference_observations_total", "observations", "Observations in those requests.",
        "Grows.", "As inference_requests_total.",
    ),
    _rejections(
        "inference_rejected_messages_total",
        "Requests that broke the contract, and what it did not accept of the head.",
        "An actor of another run, or a network that gives NaN: this process's log has the reason.",
    ),
    _counter(
        "inference_refused_peers_total", "handshakes",
        "Connections that did not show this host's key.", "0.",
        "Start the host's actors with the key file of its inference process.",
    ),
    _gauge(
        "inference_weights_version", "updates", "Version of the weights that it computes with.",
        "As actor_weights_version.", "As actor_weights_version.",
    ),
    # -------------------------------------------------------------------------------------- relay
    _counter(
        "relay_versions_total", "versions", "Versions of the weights that were passed on.",
        "Grows as the learner publishes.", "Standing still: the host does not reach the head's "
        "port for weights.",
    ),
    _counter(
        "relay_received_bytes_total", "bytes", "Weights that came from the head.",
        "The size of the network for each version, however many actors this host has.",
        "More than the link can carry: publish_period up, publish_dtype float16.",
    ),
    _rejections(
        "relay_rejected_messages_total", "What it did not accept, of head or subscribers.",
        "The head is of another release, or strangers are on this host: this process's log has the "
        "reason.",
    ),
    _gauge(
        "relay_weights_version", "updates", "Newest version that was passed on.",
        "As actor_weights_version.", "As actor_weights_version.",
    ),
    # ------------------------------------------------------------------------------------- replay
    _gauge(
        "replay_transitions", "transitions", "Transitions that can be sampled.",
        "Grows to replay_capacity and stays.",
        "Standing still below it: no actor inserts; see replay_insert_blocked_seconds_total.",
        combine=sum,
    ),
    _gauge(
        "replay_fill", "share of the replay", "Blocks stored, of those there is room for.",
        "Grows to 1 and stays.",
        "Standing still below 1: as replay_transitions. Far below 1 for hours: replay_capacity is "
        "more than this run fills; lower it, or start more actors.",
    ),
    _counter(
        "replay_inserted_transitions_total", "transitions",
        "Transitions stored since the run began.",
        "Grows evenly.", "Standing still for a minute: no actor is alive, or the limiter waits for "
        "the learner.",
    ),
    _counter(
        "replay_sampled_transitions_total", "transitions",
        "Transitions sampled since the run began.",
        "samples_per_insert times as many as inserted, after min_size_to_sample.",
        "Standing still: the learner is gone, or waits for experience.",
    ),
    _counter(
        "replay_inserted_blocks_total", "blocks", "Blocks stored by this process.", "Grows.",
        "As replay_inserted_transitions_total.",
    ),
    _counter(
        "replay_duplicates_total", "inserts", "Inserts that had been stored before.",
        "As many as actors sent again.", "Growing: as actor_resent_inserts_total.",
    ),
    _rejections(
        "replay_rejected_messages_total", "Messages that broke the contract.",
        "Something speaks to this port that is not zapex, or an environment gives values "
        "that its spaces do not hold: the sender's log has the reason. flood: more inserts wait "
        "than there is room for, from more actors than the server can serve.",
    ),
    _counter(
        "replay_refused_peers_total", "handshakes",
        "As head_refused_peers_total, at the replay server.", "As head_refused_peers_total.",
        "As head_refused_peers_total.",
    ),
    _counter(
        "replay_priorities_total", "priorities", "Priorities written for the learner.",
        "As many as transitions were sampled.", "0: the run samples uniformly.",
    ),
    _counter(
        "replay_stale_priorities_total", "priorities",
        "Priorities that came for transitions which had been evicted.",
        "A small share of replay_priorities_total.",
        "A large share: replay_capacity is small for the rate of inserts.",
    ),
    _gauge(
        "replay_limiter_error", "samples",
        "(inserts − min_size_to_sample) × samples_per_insert − samples: above 0 the learner is "
        "behind, below the actors.",
        "Anywhere within the tolerance.",
        "At its upper end all the time: actors wait. At its lower end: the learner does.",
    ),
    _counter(
        "replay_insert_blocked_seconds_total", "s", "Time in which inserts waited for the limiter.",
        "A share of the time: the learner is the slower side, which is what a GPU is paid for.",
        "Above 90%: actors idle. Fewer actors do, or a smaller samples_per_insert.",
    ),
    _counter(
        "replay_sample_blocked_seconds_total", "s",
        "Time in which the limiter held back batches that the learner had asked for. With several "
        "replay servers the learner keeps the proportion itself, and this is 0.",
        "A small share once the replay has min_size_to_sample.",
        "Large: the learner idles. More actors, or a larger samples_per_insert.",
    ),
    _counter(
        "replay_torn_blocks_total", "blocks",
        "Blocks of the storage file that were dropped when this process began, because they were "
        "not as they had been written.",
        "0; after a power failure as many as were stored since the last flush.",
        "More: the disk loses data, or the file was copied while it was being written.",
    ),
    _gauge(
        "replay_unflushed_seconds", "s",
        "Age of the last flush of the storage file: what a power failure would take. 0 without a "
        "file on a disk.",
        "Below replay_flush_period_s and the time that a flush takes.",
        "Growing: the disk is too slow for the rate of inserts, or fails; the log of the replay "
        "server has the reason.",
        combine=max,
    ),
    _histogram(
        "replay_insert_seconds", "s",
        "An insert's time in line: from its arrival to the turn in which it is stored, which is "
        "not counted.",
        "Microseconds, unless the limiter holds it.",
        "As replay_insert_blocked_seconds_total. While that stands still: the server is "
        "overloaded; fewer actors, or more replay_servers.",
        _SECONDS,
    ),
    _histogram(
        "replay_batch_seconds", "s",
        "Making one answer: a batch, its frames read and compressed, or the keys of several.",
        "Well below learner_update_seconds.",
        "More: let the learner read the storage itself (replay_link); between hosts, set "
        "compression to none.",
        _SECONDS,
    ),
    _histogram(
        "replay_sampled_age", "share of the replay",
        "How old the sampled transitions are: 0 newest, 1 oldest.",
        "Spread over all ranges; prioritised replay leans to the new end.",
        "All in the first: the replay is large for what is learnt from; all priorities are alike.",
        _SHARES,
    ),
    _histogram(
        "replay_new_priority", "|δ|", "Priorities that the learner gave back.",
        "Falls in the course of a run, with a tail.",
        "Growing without end: the values diverge; lower learning_rate, clip rewards.",
        _PRIORITIES,
    ),
    # ------------------------------------------------------------------------------------ learner
    _counter(
        "learner_updates_total", "updates", "Updates of the network.", "Grows evenly.",
        "Standing still: learner_waited_seconds_total tells whether it waits for experience.",
    ),
    _counter(
        "learner_env_steps_total", "environment steps", "Steps that reached the replay.",
        "Grows to total_env_steps.", "As replay_inserted_transitions_total.",
    ),
    _gauge(
        "learner_loss", "δ²/2 or |δ|", "Importance-weighted loss of the newest batch.",
        "Any level, without explosions; it need not fall.",
        "Growing by orders of magnitude: lower learning_rate, clip rewards.",
    ),
    _gauge(
        "learner_mean_q", "return", "Mean Q-value of the actions in the newest batch.",
        "Near the discounted returns that the agent really gets.",
        "Far above: overestimation; double = true, a longer target_update_period.",
    ),
    _gauge(
        "learner_experience_age_updates", "updates",
        "Between the weights that acted in the newest batch and the present ones, mean.",
        "About half of the updates that are made while the replay is filled once.",
        "Growing without end: the replay is no longer refilled.",
    ),
    _counter(
        "learner_overwritten_transitions_total", "transitions",
        "Sampled transitions that were evicted before they were read, and replaced.",
        "0, or next to nothing.", "More: replay_capacity is small for the rate of inserts.",
    ),
    _counter(
        "learner_waited_seconds_total", "s", "Time without a batch to train on.",
        "A small share.",
        "Large: more actors, or a larger samples_per_insert. With one replay server whose "
        "replay_sample_blocked_seconds_total is small: the link to it is slow.",
    ),
    _histogram(
        "learner_update_seconds", "s", "One update; on a GPU, until the one before it is through.",
        "Narrow.", "A tail on a CPU: more threads and processes than cores.", _SECONDS,
    ),
    _histogram(
        "learner_batch_wait_seconds", "s", "Wait for the next batch.",
        "Below 1e-5: it was there.", "As learner_waited_seconds_total.", _SECONDS,
    ),
    _rejections(
        "learner_rejected_messages_total",
        "What it did not accept of its replay server.",
        "Batches that break the contract end the run: the replay server is of another version.",
    ),
    _gauge(
        "learner_failed", "0 or 1", "Whether an error ended the training.", "0.",
        "1: the last lines of learner.log say what, such as a loss that is no number, and from "
        "which checkpoint to resume.",
    ),
    _gauge(
        "learner_failed_checkpoints", "checkpoints",
        "Checkpoints that could not be written, in a row.", "0.",
        "The disk is full, or not writable any more: learner.log has the reason. The next one is "
        "tried when it is due; after 10 the run ends.",
    ),
    _gauge(
        "learner_score", "return", "Mean greedy return of the newest evaluation.",
        "Grows, with noise.", "docs/tuning.md",
    ),
    _gauge(
        "learner_best_score", "return", "Best of all evaluations.", "Grows.", "docs/tuning.md",
    ),
    # --------------------------------------------------------------------------------------- head
    _gauge(
        "head_training_return", "return",
        "Mean raw return of the newest training episodes, exploration included.",
        "Follows learner_score from below.", "Far below: much exploration; see epsilon_base.",
    ),
    _gauge(
        "head_actors", "processes", "Actors of the run.", "As many as were started.",
        "Fewer: look at their logs.",
    ),
    _gauge(
        "head_wanted_actors", "processes",
        "Actors with which neither they nor the learner would wait; for autoscalers.",
        "As head_actors.", "More: the learner waits, start more actors. Fewer: actors wait, and "
        "some could go without a loss.",
    ),
    _counter(
        "head_lost_members_total", "processes", "Members that fell silent.", "0.",
        "Growing: hosts vanish, or loops hang, or a step keeps the interpreter for 15 s.",
    ),
    _rejections(
        "head_rejected_messages_total", "Messages to the head that it did not accept.",
        "Something else speaks to this port, or another version (`schema`); the log has examples. "
        "`flood`: one connection says more than members do; SECURITY.md.",
        "0; `unknown_session` grows by each member's heartbeats when the head is restarted.",
    ),
    _counter(
        "head_refused_peers_total", "handshakes",
        "Connections to the head that did not get through the handshake: with no key, or none that "
        "is allowed. Without --keys they are not counted.",
        "0, or as many as something probes the port for health.",
        "The learner's log has the address and the reason. Growing on a port that the world can "
        "reach: somebody is knocking; close it with a firewall.",
    ),
    _gauge(
        "head_policy_lag_updates", "updates",
        "Updates between the learner's weights and those that actors act with, mean.",
        "A few publish_period.", "As actor_weights_version.",
    ),
    _histogram(
        "head_actor_lag_updates", "updates",
        "As head_policy_lag_updates, of each actor, taken once a second.",
        "Narrow, within a few publish_period.",
        "A tail: one actor or host hears of new weights late; compare actor_weights_version.",
        _UPDATES,
    ),
    _counter(
        "head_dropped_records_total", "records",
        "Records that a sink (TensorBoard, a file) was too slow to take, or failed to.", "0.",
        "A slow or full disk: the run goes on, its curves have gaps. The learner's log names a "
        "sink that failed.",
    ),
)  # fmt: skip

METRICS = {metric.name: metric for metric in _METRICS}
"""By name."""

SERIES = METRICS | {f"{m.name}.{part}": m for m in _METRICS for part in m.parts}
"""By all names that values come under, those of parts included."""


def histogram(name: str) -> Histogram:
    """An empty one of that declaration."""
    return Histogram(METRICS[name])


def _combined(combine: Callable[[Sequence[float]], float]) -> str:
    """Names of the metrics whose values of several processes become the run's so."""
    return ", ".join(f"`{metric.name}`" for metric in _METRICS if metric.combine is combine)


def page(metrics: Iterable[Metric] = _METRICS) -> str:
    """`docs/metrics.md`."""
    lines = [
        "# Metrics",
        "",
        "What every process tells about itself. Prometheus shows the names with `zapex_` before",
        "them. This page is made by `python -m common.metric_table`.",
        "",
        "A run's own records (`metrics.jsonl`, TensorBoard) have the sum of what its processes",
        f"count, and the mean of each gauge; but the sum of {_combined(sum)}, and the",
        f"largest {_combined(max)}. Of a histogram they have the quantiles of what",
        "fell into it since the last record: `NAME_p50`, `NAME_p90` and `NAME_p99`.",
        "",
        "A counter *by reason* is, besides its total, told for each reason that occurred as",
        "`NAME.REASON`; Prometheus has the reason as a label instead, and no total. The reasons:",
        f"{', '.join(f'`{reason}`' for reason in Reason)} (`common/errors.py`).",
    ]
    role = ""
    for metric in metrics:
        if metric.role != role:
            role = metric.role
            lines += ["", f"## {role}", ""]
            lines += [
                "| name | kind, unit | meaning | a good value | a bad one |",
                "|---|---|---|---|---|",
            ]
        lines.append(
            f"| `{metric.name}` | {metric.kind}, {metric.unit}"
            f"{f' by {metric.label}' if metric.label else ''} | {metric.meaning} | "
            f"{metric.healthy} | {metric.remedy} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
