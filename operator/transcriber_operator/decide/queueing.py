"""How many replicas an arrival rate needs in the long run: square-root staffing and the tail of the wait (Erlang C)."""

import math
from typing import Final

MOST_REPLICAS: Final = 10_000  # beyond it nothing is computed


def steady_replicas(
    load: float, utilization: float, target_wait_seconds: float, miss_share: float, dispersion: float, batch_seconds: float
) -> int:
    """Return the fewest replicas that carry `load` and let at most `miss_share` of the work wait longer than the target.

    `load` is the offered load in replicas, `dispersion` the variance over the mean of full batches that arrive,
    `batch_seconds` the time of one full batch. One replica is planned at `utilization`; a fleet of `load` replicas keeps
    the spare of one times sqrt(load), as work of many evens out (square-root staffing). The tail of the wait is
    P(W > T) ~ C(n, load) exp(-2 (n - load) T / (dispersion batch_seconds)), Allen and Cunneen's scaling of Erlang's C.
    """
    if load <= 0.0:
        return 0
    if load >= MOST_REPLICAS:
        return MOST_REPLICAS
    spare = (1.0 / utilization - 1.0) * min(load, math.sqrt(load))
    replicas = math.ceil(load + spare)
    decay = 2.0 * target_wait_seconds / max(dispersion * batch_seconds, 1e-9)
    if math.exp((load - replicas) * decay) <= miss_share:
        return replicas
    blocked = 1.0  # Erlang's B, server by server
    for servers in range(1, MOST_REPLICAS):
        blocked = load * blocked / (servers + load * blocked)
        if servers >= replicas and servers > load:
            waits = servers * blocked / (servers - load * (1.0 - blocked))  # Erlang's C
            if waits * math.exp((load - servers) * decay) <= miss_share:
                return servers
    return MOST_REPLICAS
