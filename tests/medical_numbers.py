"""Doses, ranges, units, lab values and formulas that must come out as they went in. Not a test module itself."""

from __future__ import annotations

NUMBERS = (
    "1~2片", "每日2～3次", "38~39℃", "5*10mg", "3×10⁹/L", "<0.5 μg/mL", "<0.5 µg/mL", "H₂O", "pH<7.35", "2.5–5 mg q8h",
    "1_000", "BP 140/90mmHg", "120/80", "0.9%氯化钠250ml", "CA125 35.2U/ml", "IgM0.08", "26+3周", "G2P1", "CD4+ T",
    "NSAIDs治疗1~2个月", "PaO₂/FiO₂≤300", "−5 ℃", "1/2片", "½片", "10^9", "1,000 IU", "①5mg②10mg", "Na⁺ 140mmol/L",
    "２５ｍｇ", "每12小时0.1g", "P<0.05*", "2**3", "10~~20", "&lt;5", "5 mg/(kg·d)", "T₃ 1.2 nmol/L", "36.5°C",
    "1:1000",
)  # fmt: skip
BETWEEN = (" ", "，", "；", " and ", "\n")
