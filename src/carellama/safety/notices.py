"""What a person has to know before the first answer, in Chinese and English.

    disclaimer("zh")

Texts of this project. Whatever shows answers shows it: the web page always, the terminal when it begins.
"""

from __future__ import annotations

from typing import Literal

Language = Literal["en", "zh"]
DISCLAIMERS: dict[Language, str] = {
    "en": "CareLlama informs about health. It does not diagnose, it can be wrong, and it does not replace a doctor. "
    "In an emergency call your local emergency number.",
    "zh": "CareLlama 仅提供健康信息，不作诊断；回答可能有误，不能代替医生。"
    "紧急情况请立即拨打当地急救电话（中国大陆为 120）。",
}


def disclaimer(language: Language) -> str:
    """Return the disclaimer."""
    return DISCLAIMERS[language]
