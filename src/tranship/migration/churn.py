"""What the precopies so far say about the next one and about the downtime. Pure arithmetic over the history.

Read by warm.py (when is the next round due, how long before a cutover the last one), and shown to the user.

A delta round i tells the churn (bytes changed per second between snapshots i-1 and i), the rate (bytes copied per second) and
the overhead (everything of the round that is not copying). The downtime of a cutover is then

    shutdown + overhead + churn * gap / rate + start        gap = time between the last precopy's snapshot and power-off

with the median for the expected value and the worst seen for the careful one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from tranship.migration.seen import Policy
from tranship.resources.vm import Forecast, Precopy
from tranship.units import format_duration, format_rate

SHUTDOWN_AND_START = 30.0  # seconds that a guest is assumed to need for going down and the target for coming up
SHORTEST_LEAD, LONGEST_LEAD = 5.0, 600.0
LEAD_WITHOUT_HISTORY = 30.0
SHORTEST_AUTO, LONGEST_AUTO = 60.0, 3600.0
DEFAULT_TARGET_DOWNTIME = 60.0


@dataclass(frozen=True, slots=True)
class DeltaRound:
    """bytes per second twice, then seconds."""

    churn: float
    rate: float
    overhead: float
    duration: float


def deltas(history: Sequence[Precopy]) -> list[DeltaRound]:
    found = []
    for before, after in pairwise(history):
        if not (before.start and after.start and after.end):
            continue
        window = max((after.start - before.start).total_seconds(), 0.001)
        duration = max((after.end - after.start).total_seconds(), 0.001)
        rate = after.bytes / max(after.seconds, 0.001) if after.bytes else 0.0
        found.append(DeltaRound(after.bytes / window, rate, max(duration - after.seconds, 0.0), duration))
    return found


def lead(history: Sequence[Precopy]) -> float:
    """Seconds before a cutover at which the last precopy should begin: twice what the last one took."""
    known = deltas(history)
    if not known:
        return LEAD_WITHOUT_HISTORY
    return min(max(2 * known[-1].duration, SHORTEST_LEAD), LONGEST_LEAD)


def interval(history: Sequence[Precopy], policy: Policy) -> float:
    """Seconds from the end of a precopy to the next one. Adaptive: so often that a delta fits into half of the downtime."""
    if policy.interval is not None:
        return policy.interval
    known = [one for one in deltas(history) if one.churn and one.rate]
    if not known:
        return SHORTEST_AUTO
    target = policy.target_downtime or DEFAULT_TARGET_DOWNTIME
    return min(max(target / 2 * known[-1].rate / known[-1].churn, SHORTEST_AUTO), LONGEST_AUTO)


def forecast(history: Sequence[Precopy], policy: Policy) -> Forecast:
    known = deltas(history)
    if not known:
        return Forecast(basis="no delta was copied yet")
    gap = lead(history)
    rates = [one.rate for one in known if one.rate]
    if not rates:
        overhead = median(one.overhead for one in known)
        calm = SHUTDOWN_AND_START + overhead
        return Forecast(
            downtime_seconds=calm, p90_seconds=calm, converging=True, basis="precopies that found nothing changed"
        )
    churn, rate = median(one.churn for one in known), median(rates)
    expected = _downtime(churn, rate, median(one.overhead for one in known), gap)
    careful = _downtime(max(one.churn for one in known), min(rates), max(one.overhead for one in known), gap)
    target = policy.target_downtime
    converging = churn < 0.8 * rate and (target is None or expected <= target)
    basis = f"a churn of {format_rate(churn)} against {format_rate(rate)} of copying ({len(known)} deltas)"
    if not converging:
        why = "faster than it can be copied" if churn >= 0.8 * rate else f"too much for {format_duration(target or 0)}"
        basis += f"; precopy does not converge: {why}"
    return Forecast(downtime_seconds=expected, p90_seconds=careful, converging=converging, basis=basis)


def _downtime(churn: float, rate: float, overhead: float, gap: float) -> float:
    return SHUTDOWN_AND_START + overhead + churn * gap / rate
