"""Tables of the documentation that are made from the code: the options of each verb, the chat formats.

    python docs/options.py     # writes them anew into docs/en and docs/zh

A page says where: between `<!-- table: train -->` and `<!-- end of table -->`. tests/test_docs.py makes them
in memory and fails where a page has others. Nothing else of a page is touched.
"""

from __future__ import annotations

import dataclasses
import html
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union

from carellama.config import datasets, keys, models
from carellama.config import run as config
from carellama.config.answering import TALK_GROUPS
from carellama.config.ask import AskArguments
from carellama.config.consultation import ConsultArguments, ConsultReportArguments
from carellama.config.consultation_eval import ConsultEvalArguments
from carellama.config.convert import LlamaArguments
from carellama.config.export import EXPORT_GROUPS
from carellama.config.guard import GuardEvalArguments, GuardTrainArguments
from carellama.config.option import default_of
from carellama.config.plan import PlanArguments
from carellama.config.recipe import RecipeArguments
from carellama.config.safety import SafetyCheckArguments, SafetyEvalArguments, SafetyTrainArguments
from carellama.config.serve import API_GROUPS
from carellama.config.tasks import TASK_GROUPS
from carellama.config.tokenizer import TokenizerArguments
from carellama.config.web import WebArguments
from carellama.demo import DemoArguments
from carellama.model.zoo.field import field_sections
from carellama.templates.jinja import formats

DOCS = Path(__file__).resolve().parent
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
TRAINER_FLAGS = "https://huggingface.co/docs/transformers/main_classes/trainer"
GROUPS: dict[str, Sequence[type]] = {
    "train": config.RUN_GROUPS,
    "predict": config.RUN_GROUPS,
    "eval": config.RUN_GROUPS,
    "plan": (PlanArguments,),
    "recipe": (RecipeArguments,),
    "export": EXPORT_GROUPS,
    "chat": TALK_GROUPS,
    "ask": (AskArguments, *TALK_GROUPS),
    "task": TASK_GROUPS,
    "web": (WebArguments, *TALK_GROUPS),
    "api": API_GROUPS,
    "demo": (DemoArguments,),
    "tokenizer": (TokenizerArguments,),
    "convert_llama": (LlamaArguments,),
    "consult": (ConsultArguments,),
    "consult_report": (ConsultReportArguments,),
    "safety_eval": (SafetyEvalArguments,),
    "safety_check": (SafetyCheckArguments,),
    "safety_train": (SafetyTrainArguments,),
    "consult_eval": (ConsultEvalArguments,),
    "guard_eval": (GuardEvalArguments,),
    "guard_train": (GuardTrainArguments,),
    **{
        f"{part}_{name.removesuffix('Arguments').lower()}": (group,)
        for part, module in (("data", datasets), ("keys", keys), ("models", models))
        for name, group in vars(module).items()
        if name.endswith("Arguments")
    },
}
WORDS = {
    "en": {
        "options": ("option", "takes", "default", "meaning"),
        "required": "required",
        "none": "none",
        "all": "These are CareLlama's own; every flag of transformers' "
        f"[`Seq2SeqTrainingArguments`]({TRAINER_FLAGS}) is accepted as well.",
        "templates": ("`--template`", "format", "tokens that the tokenizer must have"),
    },
    "zh": {
        "options": ("选项", "取值", "默认值", "含义（由程序生成，英文）"),
        "required": "必填",
        "none": "无",
        "all": f"以上是 CareLlama 自己的选项；transformers 的 [`Seq2SeqTrainingArguments`]({TRAINER_FLAGS}) "
        "的全部参数也都可以使用。",
        "templates": ("`--template`", "格式（英文）", "分词器必须有的词元"),
    },
}


def main() -> None:
    """Write the tables into all pages."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (fresh := filled(text, page.parent.name)) != text:
            page.write_text(fresh, encoding="utf-8")
            print(f"wrote the tables of {page.relative_to(DOCS)}")


def pages() -> list[Path]:
    """All pages, by language."""
    return sorted(page for language in WORDS for page in (DOCS / language).glob("*.md"))


def filled(text: str, language: str) -> str:
    """Return the page with its tables as the code has them now."""

    def table(name: str) -> str:
        made = {"templates": templates, "field": field}.get(name)
        return options(name, language) if made is None else made(language)

    return TABLE.sub(lambda found: found[1] + table(found[2]) + found[3], text)


def options(verb: str, language: str) -> str:
    """The options of a verb: a heading and a table for each of its dataclasses."""
    words = WORDS[language]
    parts = []
    for group in GROUPS[verb]:
        parts += [
            f"### {group.__name__}",
            "",
            *_table(words["options"], [_row(*field) for field in _fields(group, words)]),
            "",
        ]
        if group is config.TrainingArguments:
            parts += [str(words["all"]), ""]
    return "\n" + "\n".join(parts) + "\n"


def templates(language: str) -> str:
    """The named chat formats."""
    rows = [
        (f"`{name}`", html.escape(form.about, quote=False), " ".join(map(_code, form.tokens)))
        for name, form in formats().items()
    ]
    return "\n" + "\n".join(_table(WORDS[language]["templates"], rows)) + "\n\n"


def field(language: str) -> str:
    """The models, deployments, resources and lessons of the field."""
    parts = []
    for section in field_sections("zh" if language == "zh" else "en"):
        parts += [f"### {section.title}", "", *_table(section.header, section.rows), ""]
    return "\n" + "\n".join(parts) + "\n"


def _fields(group: type, words: dict[str, Any]) -> list[tuple[str, Any, str, str]]:
    """(name, type, default, meaning) of the fields that the class itself declares."""
    hints = typing.get_type_hints(group)
    found = []
    for field in dataclasses.fields(group):
        if field.name not in group.__annotations__ or not field.init:
            continue
        value = default_of(field)
        default = words["required"] if value is dataclasses.MISSING else _value(value, words["none"])
        takes = field.metadata.get("choices") or _choices(hints[field.name])
        found.append(
            (
                "`, `".join([f"--{field.name}", *field.metadata.get("aliases", [])]),
                takes,
                default,
                field.metadata["help"],
            )
        )
    return found


def _choices(hint: Any) -> Any:
    """The values of a Literal, or the name of the type; `Optional[int]` takes an int."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    if typing.get_origin(hint) is list:
        return "text, one or more"
    return {"str": "text", "int": "number", "float": "number", "bool": "true, false"}[hint.__name__]


def _value(value: Any, none: str) -> str:
    if value is None:
        return none
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _row(name: str, takes: Any, default: str, meaning: str) -> tuple[str, ...]:
    shown = takes if isinstance(takes, str) else ", ".join(f"`{value}`" for value in takes)
    return (f"`{name}`", shown, default, meaning)


def _code(token: str) -> str:
    """A token as HTML: Markdown has no way to write `|` as code in a table that all readers understand."""
    return f"<code>{html.escape(token)}</code>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "&#124;") for cell in line) + " |" for line in lines]


if __name__ == "__main__":
    main()
