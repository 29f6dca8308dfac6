"""A report as PDF, with the glyphs that it uses inside, so that it looks the same on a machine without Chinese fonts.

    data = draw("Consultation report · 2026-03-05", sections, "en")

The font is Noto Sans SC (SIL Open Font License), of the package pylopdf-fonts-zh-cn; fpdf2 sets the pages. The outlines
of the glyphs that are used are made quadratic (TrueType): of what fpdf2 writes for the cubic ones of OpenType, pdfminer
reads no text. A character that the font does not have is shown as □.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING

from carellama.errors import need
from carellama.safety.notices import Language

if TYPE_CHECKING:
    from fontTools.ttLib import TTFont
    from fpdf import FPDF

FONT = "Noto Sans SC"
MARGIN, SIZES = 14.0, (11.0, 10.5, 10.0, 9.5, 9.0, 8.5, 8.0)  # millimetres; points, the largest that fits one page
TITLE, HEADING, LINE = 1.7, 1.15, 0.47  # of the size of the text; LINE is in millimetres for each point
RED, GREY, BLACK = (160, 0, 0), (90, 90, 90), (20, 20, 20)
MISSING = "□"
# What a line may not break within: a word, or a Chinese character with the brackets and marks that belong to it.
_WIDE = "\u2e80-\uffef"
_UNIT = re.compile(rf"[（《“【]*(?:[^\s{_WIDE}]+|[{_WIDE}])[，。；：、！？”）》】,.;:]*\s*|\s+")


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report as a person reads it: paragraphs, or a list of them."""

    kind: str  # a key of the headings in report.yaml
    title: str
    lines: tuple[str, ...]
    is_list: bool


def draw(title: str, sections: Sequence[Section], language: Language) -> bytes:
    """Return a PDF of A4 pages, of one where it fits in a readable size.

    Raises `UserError` where the extra `report` is not installed.
    """
    fpdf = need("fpdf", extra="report", why="a report as PDF")
    path = need("pylopdf_fonts_zh_cn", extra="report", why="a report as PDF").sans_path()
    text = title + "".join(one.title + "".join(one.lines) for one in sections)
    with TemporaryDirectory() as folder:  # fpdf2 reads fonts from files alone
        font = Path(folder) / "used.ttf"
        missing = _write_used_glyphs(path, text + "•" + MISSING, font)
        shown = dict.fromkeys(missing, MISSING)
        for size in SIZES:
            pdf = _pages(fpdf.FPDF(format="A4"), font, title, sections, size, language, shown)
            if pdf.pages_count == 1:
                break
        return bytes(pdf.output())


def _pages(
    pdf: FPDF,
    font: Path,
    title: str,
    sections: Sequence[Section],
    size: float,
    language: Language,
    shown: Mapping[int, str],
) -> FPDF:
    """The report set in one size, on an empty document."""
    pdf.set_lang({"en": "en", "zh": "zh-CN"}[language])
    pdf.set_title(title)
    pdf.set_margin(MARGIN)
    pdf.set_auto_page_break(auto=True, margin=MARGIN)
    pdf.add_font(FONT, fname=font)
    pdf.add_page()
    page = _Page(pdf, size, shown)
    page.write(title, TITLE, bold=True)
    for one in sections:
        urgent = one.kind == "action"
        top = pdf.get_y() + 1
        page.heading(one.title, RED if urgent else BLACK)
        scale, color = (0.88, GREY) if one.kind == "notes" else (1.15, BLACK) if urgent else (1.0, BLACK)
        for line in one.lines:
            page.write(f"• {line}" if one.is_list else line, scale, color, bold=urgent)
        if urgent:
            pdf.set_draw_color(*RED)
            pdf.set_line_width(0.7)
            pdf.rect(MARGIN - 2, top, pdf.epw + 4, pdf.get_y() - top + 1.5)
            pdf.ln(2)
    return pdf


class _Page:
    """Writes paragraphs down a page. The font has no bold: its outlines are drawn as well."""

    def __init__(self, pdf: FPDF, size: float, shown: Mapping[int, str]) -> None:
        self._pdf, self._size, self._shown = pdf, size, shown

    def heading(self, text: str, color: tuple[int, int, int]) -> None:
        """Write a heading with a line below."""
        self._pdf.ln(self._size * 0.14)
        self.write(text, HEADING, color, bold=True)
        if color == BLACK:
            self._pdf.set_draw_color(190, 190, 190)
            self._pdf.set_line_width(0.2)
            self._pdf.line(MARGIN, self._pdf.get_y(), MARGIN + self._pdf.epw, self._pdf.get_y())
            self._pdf.ln(0.6)

    def write(self, text: str, scale: float, color: tuple[int, int, int] = BLACK, *, bold: bool = False) -> None:
        """Write a paragraph."""
        pdf = self._pdf
        pdf.set_font(FONT, size=self._size * scale)
        pdf.set_text_color(*color)
        pdf.set_draw_color(*color)
        pdf.set_line_width(0.12 if bold else 0)
        with pdf.local_context(text_mode="FILL_STROKE" if bold else "FILL"):
            for line in self._lines(text.translate(self._shown)):
                pdf.cell(0, self._size * scale * LINE, line, new_x="LMARGIN", new_y="NEXT")

    def _lines(self, text: str) -> Iterator[str]:
        """The lines of a paragraph; a word that is longer than a line is broken."""
        width = self._pdf.epw - 2 * self._pdf.c_margin
        line = ""
        for unit in _UNIT.findall(text):
            if self._pdf.get_string_width((line + unit).rstrip()) <= width:
                line += unit
                continue
            if line:
                yield line.rstrip()
            line = unit
            while self._pdf.get_string_width(line.rstrip()) > width:
                end = next(at for at in range(len(line), 0, -1) if self._pdf.get_string_width(line[:at]) <= width)
                yield line[:end]
                line = line[end:]
        if line.strip():
            yield line.rstrip()


def _write_used_glyphs(path: Path, text: str, output: Path) -> list[int]:
    """Write a TrueType font with the glyphs of a text; return the characters that the font does not have."""
    fonttools = need("fontTools.ttLib", extra="report", why="a report as PDF")
    subset = need("fontTools.subset", extra="report", why="a report as PDF")
    font = fonttools.TTFont(path)
    codes = {ord(character) for character in text}
    options = subset.Options(layout_features=[], notdef_outline=True, glyph_names=False, hinting=False)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=codes)
    subsetter.subset(font)
    _make_quadratic(fonttools, font)
    font.save(output)
    return sorted(codes - font.getBestCmap().keys())


def _make_quadratic(fonttools: ModuleType, font: TTFont) -> None:
    """Turn the cubic outlines of a font (table CFF) into quadratic ones (glyf)."""
    from fontTools.pens.cu2quPen import Cu2QuPen
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    names, outlines = font.getGlyphOrder(), font.getGlyphSet()
    glyphs = {}
    for name in names:
        pen = TTGlyphPen(None)
        outlines[name].draw(Cu2QuPen(pen, max_err=1.0, reverse_direction=True))
        glyphs[name] = pen.glyph()
    font["loca"] = fonttools.newTable("loca")
    font["glyf"] = table = fonttools.newTable("glyf")
    table.glyphOrder, table.glyphs = names, glyphs
    del font["CFF "]
    for name in ("VORG", "BASE"):
        if name in font:
            del font[name]
    maximum = font["maxp"] = fonttools.newTable("maxp")
    maximum.tableVersion, maximum.numGlyphs = 0x00010000, len(names)
    for key in (
        "maxZones", "maxTwilightPoints", "maxStorage", "maxFunctionDefs", "maxInstructionDefs", "maxStackElements",
        "maxSizeOfInstructions", "maxComponentElements",
    ):  # fmt: skip
        setattr(maximum, key, 1 if key == "maxZones" else 0)
    font["post"].formatType = 3.0
    font.sfntVersion = "\x00\x01\x00\x00"
