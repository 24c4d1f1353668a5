"""What the precopies say about the next one and about the downtime."""

from datetime import UTC, datetime, timedelta

from tranship.migration import churn
from tranship.migration.seen import Policy
from tranship.resources.vm import Precopy

START = datetime(2026, 1, 1, tzinfo=UTC)
MIB = 1 << 20


def history(*rounds: tuple[float, float, int]) -> list[Precopy]:
    """(start, seconds of copying, bytes); the round ends one second after its copy."""
    return [
        Precopy(
            round=number,
            start=START + timedelta(seconds=at),
            end=START + timedelta(seconds=at + seconds + 1),
            seconds=seconds,
            bytes=size,
        )
        for number, (at, seconds, size) in enumerate(rounds, 1)
    ]


def test_nothing_is_forecast_from_a_full_copy() -> None:
    told = churn.forecast(history((0, 100, 1000 * MIB)), Policy(mark="m"))
    assert told.downtime_seconds is None
    assert told.converging is None


def test_the_downtime_grows_with_the_churn() -> None:
    calm = churn.forecast(history((0, 100, 1000 * MIB), (3600, 1, 10 * MIB)), Policy(mark="m"))
    busy = churn.forecast(history((0, 100, 1000 * MIB), (3600, 360, 3600 * MIB)), Policy(mark="m"))
    assert calm.downtime_seconds is not None
    assert busy.downtime_seconds is not None
    assert calm.downtime_seconds < busy.downtime_seconds
    assert calm.converging
    assert busy.converging


def test_a_guest_that_writes_faster_than_it_is_copied_does_not_converge() -> None:
    told = churn.forecast(history((0, 100, 1000 * MIB), (200, 200, 2000 * MIB)), Policy(mark="m"))
    assert told.converging is False
    assert "does not converge" in told.basis


def test_a_downtime_above_the_target_does_not_converge() -> None:
    told = churn.forecast(history((0, 10, MIB), (60, 10, MIB)), Policy(mark="m", target_downtime=5))
    assert told.converging is False


def test_an_idle_guest_needs_only_the_fixed_costs() -> None:
    told = churn.forecast(history((0, 10, MIB), (60, 0, 0)), Policy(mark="m"))
    assert told.downtime_seconds == churn.SHUTDOWN_AND_START + 1


def test_auto_interval_shrinks_with_the_churn() -> None:
    auto = Policy(mark="m", interval=None, target_downtime=60)
    idle = churn.interval(history((0, 10, MIB), (600, 1, MIB)), auto)
    busy = churn.interval(history((0, 10, MIB), (600, 100, 1000 * MIB)), auto)
    assert churn.SHORTEST_AUTO <= busy < idle <= churn.LONGEST_AUTO
    assert churn.interval([], Policy(mark="m", interval=17.0)) == 17.0


def test_the_lead_before_a_cutover_is_twice_the_last_round() -> None:
    assert churn.lead(history((0, 10, MIB))) == churn.LEAD_WITHOUT_HISTORY
    assert churn.lead(history((0, 10, MIB), (600, 49, MIB))) == 100
