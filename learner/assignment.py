"""Which replay server an actor's experience goes to."""

from collections.abc import Collection, Mapping


def assign(
    weights: Mapping[int, int], current: Mapping[int, int], servers: Collection[int]
) -> dict[int, int]:
    """A server for every actor, such that servers have about the same number of environments and
    as few actors as possible move.

    An actor without a server, or whose server is gone, goes to the one with the least; then actors
    move from the server with the most to the one with the least as long as that brings the two
    closer together.

    Args:
        weights: environments of each actor, by session.
        current: where actors write now.
        servers: numbers of those that are there. Without any, nobody moves.
    """
    if not servers:
        return {actor: current[actor] for actor in weights if actor in current}
    load = dict.fromkeys(sorted(servers), 0)
    assigned: dict[int, int] = {}
    for actor, weight in weights.items():
        server = current.get(actor)
        if server in load:
            assigned[actor] = server
            load[server] += weight
    homeless = [actor for actor in weights if actor not in assigned]
    for actor in sorted(homeless, key=lambda a: -weights[a]):
        least = min(load, key=load.__getitem__)
        assigned[actor] = least
        load[least] += weights[actor]
    while True:
        most, least = max(load, key=load.__getitem__), min(load, key=load.__getitem__)
        gap = load[most] - load[least]
        movable = [a for a, server in assigned.items() if server == most and 0 < weights[a] < gap]
        if not movable:
            return assigned
        # The one after whose move the two are closest.
        actor = min(movable, key=lambda a: abs(gap - 2 * weights[a]))
        assigned[actor] = least
        load[most] -= weights[actor]
        load[least] += weights[actor]
