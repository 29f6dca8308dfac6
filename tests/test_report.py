"""The account of the data: what goes in is used or skipped, and parts add up to the whole."""

from __future__ import annotations

import json

import pytest

from carellama.data.report import KEPT_PLACES, DataReport
from carellama.records import Place


def account(first: int, last: int) -> DataReport:
    """Of the lines first..last-1: every third is skipped, every fourth of the others shortened."""
    report = DataReport()
    for line in range(first, last):
        report.row("d")
        if line % 3 == 0:
            report.note("d", "skipped", Place("a.json", line), "empty answer")
        elif line % 4 == 0:
            report.note("d", "shortened", Place("a.json", line), "answer cut")
    return report


def test_rows_are_used_or_skipped():
    entry = account(1, 101).datasets["d"]
    assert (entry.rows, entry.used, entry.skipped) == (100, 67, 33)


@pytest.mark.parametrize("cut", [1, 2, 50, 100])
def test_parts_merged_in_order_are_the_whole(cut):
    merged = account(1, cut)
    merged.merge(account(cut, 101))
    assert merged.to_dict() == account(1, 101).to_dict()


def test_the_first_places_are_kept():
    cases = account(1, 101).datasets["d"].done["skipped"]["empty answer"]
    assert cases.count == 33
    assert cases.places == [f"a.json:{3 * number}" for number in range(1, KEPT_PLACES + 1)]


def test_it_survives_a_file():
    report = account(1, 101)
    assert DataReport.from_dict(json.loads(json.dumps(report.to_dict()))).to_dict() == report.to_dict()


def test_merging_does_not_change_the_part_merged():
    part = account(1, 10)
    before = part.to_dict()
    whole = DataReport()
    whole.merge(part)
    whole.merge(account(10, 20))
    assert part.to_dict() == before


def test_lines_name_the_counts_and_the_reasons():
    text = "\n".join(account(1, 101).lines())
    assert "100 rows, 67 used, 33 skipped" in text
    assert "empty answer" in text and "a.json:3" in text


def test_rows_that_are_not_accounted_for_are_a_bug():
    report = account(1, 10)
    report.datasets["d"].used += 1
    with pytest.raises(AssertionError, match="not accounted for"):
        DataReport().merge(report)
