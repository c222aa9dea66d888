"""Figures that zapex is built to reach, each beside its limit and its peers.

    python -m tests.benchmarks NAME [--json] [options]

Nothing here asserts on time: machines differ and drift, so only the ratios within one run mean
something. NAME is one of

    learner_update  ms of an update with each of the learner's options, beside eager float32
    solve           seconds from a process's start to a greedy score, against SB3
    sum_tree        µs to sample from, and to update, a tree of 2²¹ priorities
    env_stepping    environment steps per second of one core
    inference       Q-values per second of one host's actors, by each of them or by one process
    replay_served   experience in and batches out of a replay server, to other processes
    sinks           speed of a run that is written down and scraped, beside one that is not
    telemetry_head  share of a core that a head pays for the telemetry of 1,000 actors
"""
