"""Books in the tagged layout to sections: nothing is lost but counted tags, and wrapped lines are whole again."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from carellama.data.documents.classical_books import is_classical, sections

# written for this test in the layout of such books; no line of it is from one
BOOK = r"""<篇名>试写本草
书名：试写本草
作者：某甲
朝代：今
年份：

<目录>

<篇名>自序

内容：写书的人先要自己看过药材，再问种药的人，又问用药的人，三处说法相同，方才写进书中；不
同的，就把各家的话都写上，不敢自己断定
。看书的人也应当这样。
\x某甲自题\x

<目录>卷一\草部

<篇名>甘草

属性：味甘，性平。
\x见旧本\x
根长的好，皮要紧实，断面要黄，嚼起来先甜后不苦，这样的才可以收。水气重的□不收，黄 二两以
上的另放。
甘草 黄芩 人参 白术 茯苓
上 草部五种

<目录>卷一\草部

<篇名>空条

内容：
""".replace("\n", " \n")  # each line of such files ends with a space


def made(text: str = BOOK) -> tuple[list, Counter[str]]:
    dropped = Counter[str]()
    return list(sections(text, dropped)), dropped


def test_a_section_is_its_title_and_whole_paragraphs() -> None:
    (preface, herb), dropped = made()
    assert (preface.title, herb.title) == ("自序", "甘草")
    assert preface.paragraphs == (
        "写书的人先要自己看过药材，再问种药的人，又问用药的人，三处说法相同，方才写进书中；不同的，就把各家的话都写上，"
        "不敢自己断定。看书的人也应当这样。",
        "某甲自题",
    )
    assert herb.paragraphs == (
        "味甘，性平。",
        "见旧本",
        "根长的好，皮要紧实，断面要黄，嚼起来先甜后不苦，这样的才可以收。水气重的□不收，黄 二两以上的另放。",
        "甘草 黄芩 人参 白术 茯苓",
        "上 草部五种",
    )
    assert dropped["section without text"] == 1


def test_what_is_said_of_the_book_is_kept_and_nothing_is_made_up() -> None:
    (preface, herb), _ = made()
    assert preface.meta == {"title": "试写本草", "author": "某甲", "dynasty": "今"}
    assert herb.meta == {**preface.meta, "section": "卷一 草部"}


def test_places_are_the_lines_of_the_titles() -> None:
    lines = BOOK.split("\n")
    assert [lines[section.line - 1].strip() for section in made()[0]] == ["<篇名>自序", "<篇名>甘草"]


@pytest.mark.parametrize("text", ["<篇名>某书\n前言一句。\n", "<目录>卷一\n前言一句。\n<篇名>节\n正文一句。\n"])
def test_text_outside_sections_is_kept(text: str) -> None:
    assert "前言一句。" in made(text)[0][0].paragraphs


def test_only_the_tagged_layout_is_taken_for_it() -> None:
    assert is_classical("\ufeff\n<篇名>某书") and not is_classical("第一章 总论\n<篇名>")


def said(text: str) -> Counter[str]:
    """The characters of a text without white space, tags, fields of the book and marks of notes."""
    text = re.sub(
        r"^<目录>.*$|^<篇名>|^(?:书名|作者|朝代|年份)：.*$|^(?:内容|属性)：|\\x", "", text, flags=re.MULTILINE
    )
    return Counter(re.sub(r"\s", "", text))


def test_real_books_lose_no_character(real_data: Path) -> None:
    files = sorted((real_data / "zysj").glob("*.txt"))
    assert files
    for file in files:
        text = file.read_bytes().decode("gb18030").replace("\r\n", "\n").replace("\r", "\n")
        found, dropped = made(text)
        assert len(found) == text.count("<篇名>") - 1 - dropped["section without text"]
        title = Counter(found[0].meta["title"])  # stands in the first <篇名>, and in meta
        kept = Counter(re.sub(r"\s", "", "".join(one.title + "".join(one.paragraphs) for one in found)))
        assert said(text) - title == kept, file.name
        assert all(one.meta["author"] for one in found)
