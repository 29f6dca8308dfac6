"""The report of a consultation: the person's words as said, urgency never below triage, the same in all its forms."""

from __future__ import annotations

import html
import io
import re
import sys
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from types import ModuleType
from typing import cast

import pytest

from carellama.consultation.report import Report, make_report, report_schema, sections, to_html, to_markdown, to_pdf
from carellama.consultation.state import ConsultState, Slot
from carellama.errors import UserError
from carellama.safety.notices import Language
from carellama.safety.triage.triage import triage_text

DAY = date(2026, 3, 5)


def state(language: Language, **slots: str) -> ConsultState:
    given = cast("dict[Slot, str]", slots)
    found = triage_text("\n".join(slots.values()))
    return ConsultState(language, given, tuple(given), found.level or "routine", found.findings)


WORDS = "I've <b>itchy</b> skin & *red* spots\n# on my arms"
ITCH = state("en", complaint=WORDS, onset="3 days ago", drugs="don't know")
HEART = state("zh", complaint="胸口像压了块石头，一身冷汗", onset="半小时前")


def report(given: ConsultState) -> Report:
    return make_report(given, today=DAY)


def test_what_was_said_is_quoted_and_what_was_not_is_listed() -> None:
    made = report(ITCH)
    assert made.complaint == ITCH.slots["complaint"]
    assert [(one.slot, one.text) for one in made.summary] == [("onset", "3 days ago")]
    assert "drugs" in made.unknown  # asked and not known
    assert "allergies" in made.unknown
    assert "onset" not in made.unknown
    assert "pregnancy" not in report(replace(ITCH, sex="male")).unknown


def test_urgency_is_never_below_that_of_triage_or_of_the_guide() -> None:
    assert report(HEART).urgency == "emergency"
    assert report(replace(ITCH, level="urgent")).urgency == "urgent"
    calm = state("en", complaint="I have diarrhoea")
    assert report(calm).urgency == "routine"
    dry = replace(calm, slots={**calm.slots, "associated": "and I have hardly any urine, no urine since yesterday"})
    assert report(dry).urgency == "urgent"


def test_a_bare_yes_affirms_the_question_that_was_asked() -> None:
    pain = ConsultState(
        "en", {"complaint": "my chest hurts", "red_flag": "yes"}, ("red_flag",), complaints=("chest_pain",)
    )
    assert report(pain).urgency == "emergency"
    assert report(replace(pain, slots={**pain.slots, "red_flag": "no"})).urgency == "urgent"


def test_an_emergency_begins_with_the_action_and_the_numbers_of_the_country() -> None:
    text = to_markdown(report(HEART))
    assert text.index("120") < text.index("主诉")
    assert text.splitlines()[2] == "## 请立即这样做"
    assert "999" in make_report(HEART, country="GB").notice
    assert report(ITCH).notice == ""
    low = ConsultState("en", {"complaint": "I can't cope and want to die"})
    assert "988" in report(low).notice  # found by the guide alone, and the crisis line is named
    with pytest.raises(UserError, match="country"):
        make_report(HEART, country="XX")


def test_the_json_has_the_keys_of_its_schema_and_no_others() -> None:
    made = report(HEART).as_json()
    assert made.keys() == set(report_schema()["required"]) == report_schema()["properties"].keys()
    assert made["date"] == "2026-03-05"
    assert made["departments"][0].keys() == {"id", "name", "treats"}


def test_a_strangers_validator_finds_the_json_valid() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(report(HEART).as_json(), report_schema())
    jsonschema.validate(report(ITCH).as_json(), report_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**report(ITCH).as_json(), "diagnosis": "eczema"}, report_schema())


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_the_words_and_runs_nothing() -> None:
    page = Page()
    source = to_html(report(ITCH))
    page.feed(source)
    names = [tag for tag, _ in page.tags]
    assert "I've <b>itchy</b> skin & *red* spots # on my arms" in page.text
    assert not {"script", "b", "img", "link", "iframe"} & set(names)
    assert page.tags[0] == ("html", {"lang": "en"})
    assert names.count("h1") == 1
    assert names.count("h2") >= 8
    assert html.escape(ITCH.slots["complaint"].replace("\n", " ")) in source
    assert '<html lang="zh-CN">' in to_html(report(HEART))


def test_markdown_of_the_persons_words_is_text() -> None:
    text = to_markdown(report(ITCH))
    assert r"\<b\>itchy\</b\>" in text
    assert r"\*red\*" in text
    assert "\n# on" not in text


def test_what_is_not_in_the_guide_goes_to_a_general_doctor() -> None:
    made = report(state("en", complaint="something odd"))
    assert [one.id for one in made.departments] == ["general_practice"]
    assert made.return_if
    assert report(replace(state("zh", complaint="说不清"), age=3)).departments[0].id == "paediatrics"


@pytest.fixture
def pdfium() -> ModuleType:
    pytest.importorskip("fpdf")
    pytest.importorskip("pylopdf_fonts_zh_cn")
    return cast("ModuleType", pytest.importorskip("pypdfium2"))


def words_of(text: str) -> str:
    return re.sub(r"[\s\u00ad\ufffe]", "", text)


@pytest.mark.parametrize("given", [ITCH, HEART], ids=["en", "zh"])
def test_the_pdf_is_one_page_whose_text_two_strangers_read(given: ConsultState, pdfium: ModuleType) -> None:
    made = report(given)
    data = to_pdf(made)
    document = pdfium.PdfDocument(data)
    assert len(document) == 1
    extract = pytest.importorskip("pdfminer.high_level").extract_text
    lines = [words_of(line) for one in sections(made) for line in (one.title, *one.lines)]
    for text in (document[0].get_textpage().get_text_range(), extract(io.BytesIO(data))):
        assert [line for line in lines if line not in words_of(text)] == []


def test_the_pdf_has_its_chinese_glyphs_inside(pdfium: ModuleType) -> None:
    data = to_pdf(report(HEART))
    assert b"NotoSansSC" in data
    assert b"/FontFile2" in data
    page = pdfium.PdfDocument(data)[0].render(scale=1).to_numpy()
    assert (page.min(axis=2) < 100).sum() > 3000  # dark pixels: not an empty page of missing glyphs


def test_characters_without_a_glyph_and_long_words_do_not_stop_the_pdf(pdfium: ModuleType) -> None:
    told = replace(ITCH, slots={"complaint": "😀 itch " + "x" * 900, "history": "长" * 3000})
    document = pdfium.PdfDocument(to_pdf(report(told)))
    text = words_of("".join(page.get_textpage().get_text_range() for page in document))
    assert "□" in text
    assert text.count("长") == 3000
    assert text.count("x") >= 900


def test_without_the_extra_the_pdf_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fpdf", None)
    with pytest.raises(UserError, match=r"a report as PDF needs fpdf: .*\[report\]"):
        to_pdf(report(ITCH))
