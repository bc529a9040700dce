from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs_core.model import Layout
from pacs_core.storage.layout import is_object_path, object_path, path_component, replacement_path

WHEN = datetime(2024, 2, 29, 23, 30, tzinfo=timezone(timedelta(hours=-5)))


def test_the_uid_layout_is_study_series_instance() -> None:
    assert object_path(Layout.UID, study="1.2", series="1.3", instance="1.4", received_at=WHEN) == "1.2/1.3/1.4.dcm"


def test_the_date_layout_has_the_day_of_reception_in_utc() -> None:
    assert object_path(Layout.DATE, study="1.2", series="1.3", instance="1.4", received_at=WHEN) == "2024/03/01/1.4.dcm"


@pytest.mark.parametrize("uid", ["", ".", "..", "../../etc/passwd", "1.2/3", "1..2", "01.2", "1.2\0", "1." * 40 + "1", "\udcff", "1.2\n"])
def test_what_is_no_uid_is_replaced_by_a_digest(uid: str) -> None:
    component = path_component(uid)
    assert component.startswith("x-")
    assert len(component) == 42


@given(study=st.text(), series=st.text(), instance=st.text(), layout=st.sampled_from(Layout))
def test_no_uid_whatsoever_leaves_the_tier(study: str, series: str, instance: str, layout: Layout) -> None:
    path = object_path(layout, study=study, series=series, instance=instance, received_at=datetime.now(UTC))
    assert is_object_path(path)
    assert len(path.split("/")) == (3 if layout is Layout.UID else 4)


@given(st.text(), st.text())
def test_different_uids_have_different_names(one: str, other: str) -> None:
    assert (path_component(one) == path_component(other)) == (one == other)


def test_a_replacement_stands_beside_what_it_replaces() -> None:
    assert replacement_path("1.2/1.3/1.4.dcm", "0123456789abcdef") == "1.2/1.3/1.4~01234567.dcm"


@pytest.mark.parametrize("path", ["", "/a", "a//b", "a/../b", ".incoming/a", "a/.hidden", "a\0b", "a/"])
def test_paths_out_of_the_tier_or_into_its_hidden_directories_are_told(path: str) -> None:
    assert not is_object_path(path)
