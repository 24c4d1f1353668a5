"""A mover's report as the migration sees it, wherever the mover runs."""

from tranship.migration.seen import CopySeen, CopyState
from tranship.transfer.channel import Report


def seen(report: Report, *, full: str, released: bool) -> CopySeen:
    """full: why the disk is read fully. released: what the source lent for it is given back."""
    return CopySeen(
        CopyState(report.state.value),
        total=report.total,
        done=report.done,
        copied=report.copied,
        zeroed=report.zeroed,
        areas=report.areas,
        full=full,
        rate=report.done / report.seconds if report.seconds else 0.0,
        seconds=report.seconds,
        digest=report.digest,
        verified=report.verified,
        released=released,
        reason=report.reason,
        message=report.message,
        suggestion=report.suggestion,
        temporary=report.temporary,
    )
