"""What Jobs and pods say, as text for users."""

from typing import Any

import pytest

from tranship.providers.kubevirt import told
from tranship.transfer.channel import State

JOB: dict[str, Any] = {
    "metadata": {"namespace": "moved", "name": "web-r1"},
    "status": {"conditions": [{"message": "Job has reached the specified backoff limit"}]},
}


def pod(**state: Any) -> dict[str, Any]:
    return {"status": {"containerStatuses": [{"state": state}]}}


def test_an_end_without_a_word_tells_what_the_node_knows() -> None:
    lost = told.lost(JOB, pod(terminated={"reason": "OOMKilled", "exitCode": 137}))
    assert lost.message == "job moved/web-r1 ended without a word: OOMKilled (exit code 137)"
    assert "memory" in lost.suggestion
    assert lost.temporary
    assert "backoff limit" in told.lost(JOB, None).message


@pytest.mark.parametrize(
    ("side", "message"), [("target", "claim web-disk-0: the volume is full"), ("source", "the volume is full")]
)
def test_a_failure_of_the_target_names_the_claim(side: str, message: str) -> None:
    word = {"state": "failed", "reason": "NoSpace", "message": "the volume is full", "suggestion": "x", "side": side}
    said = told.failure(word, "web-disk-0")
    assert (said.state, said.message) == (State.FAILED, message)
    assert ("controller_filesystem_overhead" in said.suggestion) is (side == "target")


def test_the_last_complaint_wins_whichever_clock_it_bears() -> None:
    meta = {"creationTimestamp": "2026-01-01T00:00:00Z"}
    old = {"metadata": meta, "lastTimestamp": "2026-01-01T00:00:01Z"}
    new = {"metadata": meta, "lastTimestamp": None, "eventTime": "2026-01-01T00:00:02.000001Z"}
    assert max([new, old, {"metadata": meta}], key=told.when) is new
