"""Staged validation: what is not found again vanishes, what is found twice is told once and whole."""

from datetime import UTC, datetime, timedelta

from tranship.resources.conditions import Category, Condition, Conditions

T0 = datetime(2026, 1, 31, 23, tzinfo=UTC)
T1 = T0 + timedelta(minutes=1)


def test_a_condition_that_is_not_set_again_vanishes_unless_durable() -> None:
    found: list[Condition] = []
    conditions = Conditions(found)
    conditions.begin_staging()
    conditions.set("VMNotFound", Category.CRITICAL, T0)
    conditions.set("Succeeded", Category.ADVISORY, T0, durable=True)
    conditions.end_staging()
    assert [condition.type for condition in found] == ["VMNotFound", "Succeeded"]

    conditions.begin_staging()
    conditions.set("Ready", Category.REQUIRED, T1)
    conditions.end_staging()
    assert [condition.type for condition in found] == ["Succeeded", "Ready"]


def test_the_transition_time_changes_only_with_the_status() -> None:
    conditions = Conditions([])
    for now in (T0, T1):
        conditions.begin_staging()
        conditions.set("Ready", Category.REQUIRED, now, message=f"at {now}")
        conditions.end_staging()
    ready = conditions.get("Ready")
    assert ready and ready.last_transition_time == T0 and ready.message == f"at {T1}"
    assert conditions.set("Ready", Category.REQUIRED, T1, status=False).last_transition_time == T1


def test_causes_of_one_type_are_collected() -> None:
    conditions = Conditions([])
    conditions.begin_staging()
    conditions.set("NotValid", Category.WARN, T0, reason="A", message="First.", items=["x"], suggestion="Do this.")
    conditions.set(
        "NotValid", Category.CRITICAL, T0, reason="B", message="Second.", items=["x", "y"], suggestion="Do this."
    )
    conditions.end_staging()
    (only,) = conditions.list
    assert (only.category, only.reason, only.items) == ("Critical", "B", ["x", "y"])
    assert only.message == "First. Second." and only.suggestion == "Do this."


def test_a_new_stage_replaces_what_an_old_one_found() -> None:
    conditions = Conditions([])
    for items in (["x", "y"], ["y"]):
        conditions.begin_staging()
        conditions.set("VMNotFound", Category.CRITICAL, T0, items=items)
        conditions.end_staging()
    found = conditions.get("VMNotFound")
    assert found and found.items == ["y"]


def test_critical_and_error_block_when_they_hold() -> None:
    conditions = Conditions([])
    conditions.set("Ready", Category.REQUIRED, T0)
    conditions.set("A", Category.WARN, T0)
    conditions.set("B", Category.CRITICAL, T0, status=False)
    assert conditions.ready and conditions.blocking == []
    conditions.set("C", Category.ERROR, T0)
    assert [condition.type for condition in conditions.blocking] == ["C"] and not conditions.ready
    conditions.delete("C")
    assert conditions.ready and conditions.has("A") and not conditions.has("B")


def test_an_earlier_finding_does_not_block_what_is_looked_at_anew() -> None:
    """Else it would take a second look until an object whose trouble is over is ready."""
    conditions = Conditions([])
    conditions.set("ProviderNotReady", Category.ERROR, T0)
    conditions.set("ForeignController", Category.CRITICAL, T0, durable=True)
    conditions.begin_staging()
    assert [one.type for one in conditions.blocking] == ["ForeignController"]
    conditions.set("ProviderNotReady", Category.ERROR, T1)
    assert [one.type for one in conditions.blocking] == ["ProviderNotReady", "ForeignController"]
