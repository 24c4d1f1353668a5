"""The command line's own table of kinds says the same as the resources and their printer columns."""

import pytest

from tranship.cli import kinds
from tranship.errors import Invalid
from tranship.resources import meta
from tranship.resources.crds import COLUMNS


def test_every_kind_is_known_by_all_its_names() -> None:
    ours = {(kind.kind, kind.plural, kind.singular, kind.short, kind.api_version) for kind in kinds.KINDS}
    theirs = {(kind.kind, kind.plural, kind.singular, kind.short, kind.api_version) for kind in meta.ALL_KINDS}
    assert ours == theirs
    for name in meta.KINDS:
        assert kinds.find_kind(name).kind == meta.KINDS[name].kind


@pytest.mark.parametrize("kind", [kind for kind in meta.ALL_KINDS if kind in COLUMNS], ids=str)
def test_columns_are_the_printer_columns(kind: meta.Kind) -> None:
    shown = [column.header for column in kinds.find_kind(kind.plural).columns if not column.wide]
    assert [*shown, "AGE"] == [column["name"].upper() for column in COLUMNS[kind]]


def test_targets() -> None:
    plan, secret = kinds.PLAN, kinds.SECRET
    assert kinds.parse_targets(("plans",)) == [(plan, "")]
    assert kinds.parse_targets(("plan", "a", "b")) == [(plan, "a"), (plan, "b")]
    assert kinds.parse_targets(("plan.forklift.konveyor.io/a", "secret/b")) == [(plan, "a"), (secret, "b")]
    for wrong in ((), ("plam",), ("plan/a", "b"), ("plan/a/b",)):
        with pytest.raises(Invalid):
            kinds.parse_targets(wrong)


def test_paths() -> None:
    assert kinds.PLAN.path("moves", "web") == "/apis/forklift.konveyor.io/v1beta1/namespaces/moves/plans/web"
    assert kinds.PLAN.path(None) == "/apis/forklift.konveyor.io/v1beta1/plans"
    assert kinds.SECRET.path("moves") == "/api/v1/namespaces/moves/secrets"
