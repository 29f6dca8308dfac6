"""What the page shows is what was written: doses and ranges, a person's own words, and what is copied."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carellama.serve.gradio_markdown import answer_markdown, verbatim

markdown_it = pytest.importorskip("markdown_it")
RENDER = markdown_it.MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["strikethrough", "table"])
DOSES = [
    "成人每次1~2片", "每日2~3次", "38~39℃", "5*10mg", "3*20mg", "2**3", "4**5", "3×10⁹/L", "<0.5 μg/mL", "H₂O",
    "pH<7.35", "2.5–5 mg q8h", "1_000", "2_000", "P<0.05*", "0.9%", "BP 140/90mmHg", "a_b_c", "10~~20", "30~~40",
    "pH<pKa", "&#126;", "CD4+ T", "T<sub>3</sub>", r"5\~10", "[16]",
]  # fmt: skip


def shown(markdown: str) -> str:
    """What a browser shows of Markdown, by a renderer that is not ours."""
    return html.unescape(re.sub(r"<[^>]+>", "", RENDER.render(markdown))).strip("\n")


@settings(max_examples=150)
@given(st.lists(st.sampled_from(DOSES), min_size=1, max_size=6), st.sampled_from([" ", "，", " and ", "; "]))
def test_doses_are_shown_as_they_were_written(doses: list[str], between: str) -> None:
    """`1~2片，每日2~3次` was shown as 12片, 23次, and `5*10mg and 3*20mg` as 510mg and 320mg."""
    text = between.join(doses)
    assert shown(answer_markdown(text)) == text.replace(r"\~", "~")
    assert shown(verbatim(text)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("请**立即**就医", "请立即就医"),  # bold is bold
        ("> 38.5℃ 就医", "> 38.5℃ 就医"),
        ("+ 5 mmol/L", "+ 5 mmol/L"),
        ("[16]: Li 2004", "[16]: Li 2004"),
        ("`5*10 ~ <b>`", "5*10 ~ <b>"),
    ],
)
def test_signs_that_markdown_would_take_for_marks(text: str, expected: str) -> None:
    assert shown(answer_markdown(text)) == expected


def test_items_keep_their_numbers() -> None:
    """Markdown counts the items of a list anew: 1. 3. 4. was shown as 1. 2. 3."""
    written = RENDER.render(answer_markdown("1. 休息\n3. 补液\n4. 复诊\n\n说明\n\n16. 随访\n17. 宣教"))
    assert "3. 补液" in written and "4. 复诊" in written
    assert '<ol start="16">' in written and written.count("<li>") == 3


@settings(max_examples=200)
@given(st.text(alphabet="ab12 *_~`#>+-.<&;[]()!|\\\n=:中", max_size=40))
def test_a_persons_own_words_are_shown_as_they_are(text: str) -> None:
    assert re.sub(r"\s+", "", shown(verbatim(text))) == re.sub(r"\s+", "", text)


@settings(max_examples=200)
@given(st.text(alphabet="ab12 *_~#>+-.<&;[]()!|\n=:中", max_size=40))
def test_what_is_copied_is_what_was_written(text: str) -> None:
    """The page turns our character references back (COPY_SCRIPT): `pH&lt;pKa` was copied for `pH<pKa`."""
    decoded = [re.sub(r"&#(\d+);", lambda code: chr(int(code[1])), form(text)) for form in (answer_markdown, verbatim)]
    assert decoded == [text, text]
