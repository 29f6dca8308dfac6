"""What the web page says (`words.yaml`), in English and Chinese, errors included.

    page_words("zh")["ask"]
    error_text(PromptTooLong(900, 512), "zh")

The disclaimer is in `carellama.safety.notices`.
"""

from __future__ import annotations

from carellama.engine.base import PromptTooLong, Unavailable, Unsupported
from carellama.errors import UserError
from carellama.package_data import package_yaml
from carellama.safety.notices import Language


def page_words(language: Language) -> dict[str, str]:
    """Return what the page says in a language, by what it is for."""
    words: dict[str, str] = package_yaml("serve/page/words.yaml")[language]
    return words


def error_text(error: Exception, language: Language) -> str:
    """Return what a visitor is told of an error. Where it happened, and of which kind it was, is for the log."""
    words = page_words(language)
    if isinstance(error, PromptTooLong):
        return words["prompt too long"].format(prompt=error.prompt_tokens, context=error.context_tokens)
    if isinstance(error, Unavailable):
        return words["unavailable"]
    if isinstance(error, UserError):
        return f"{words['unsupported' if isinstance(error, Unsupported) else 'refused']} ({error})"
    return words["broken"]
