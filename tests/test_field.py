"""The field's list is complete in both languages, and what it says can be used here."""

from __future__ import annotations

import json

from carellama.data.catalogue.entries import entries
from carellama.model.zoo.field import field_lines, field_sections, load_field
from carellama.model.zoo.show import list_models


def test_the_list_is_complete_in_both_languages() -> None:
    field = load_field()
    assert {name: len(rows) for name, rows in field.items()} == {
        "medical_models": 22, "deployments": 6, "resources": 4, "lessons": 6,
    }  # fmt: skip
    for language in ("en", "zh"):
        sections = field_sections(language)
        cells = [cell for section in sections for row in section.rows for cell in row]
        assert len(sections) == 4 and all(cells)
    han = [line for line in field_lines("en") if any("一" <= sign <= "鿿" for sign in line)]
    assert not han, "Chinese in the English list"


def test_datasets_that_it_names_are_in_the_catalogue() -> None:
    named = {name for model in load_field()["medical_models"] for name in model["datasets"]}
    assert len(named) > 10 and named <= set(entries())


def test_the_command_prints_it_for_people_and_programs(capsys) -> None:
    list_models(["--field", "--language", "zh"])
    assert capsys.readouterr().out.startswith("医疗模型 (22)\n")
    list_models(["--field", "--json"])
    assert json.loads(capsys.readouterr().out) == load_field()
