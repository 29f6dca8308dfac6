"""Tables of the documentation that are made from the code: the options of each verb, the chat formats.

    python docs/options.py     # writes them into docs/en and docs/zh

A page says where: between `<!-- table: train -->` and `<!-- end of table -->`. tests/test_docs.py makes them
in memory and fails where a page has others. Nothing else of a page is touched.
"""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carellama.config import commands, consultation, data_commands, safety, store, template
from carellama.config.help import group_name
from carellama.config.options import OptionType, default_of, option_fields, option_types
from carellama.config.run import RUN_OPTIONS, UNREAD, PlanOptions, TrainingOptions
from carellama.config.serve import API_OPTIONS, CHAT_OPTIONS, WebOptions
from carellama.demo import DemoOptions
from carellama.model.zoo.field import field_sections
from carellama.templates.format import formats

DOCS = Path(__file__).resolve().parent
TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
TRAINER_FLAGS = "https://huggingface.co/docs/transformers/main_classes/trainer"
GROUPS: dict[str, Sequence[type]] = {
    "train": RUN_OPTIONS,
    "predict": RUN_OPTIONS,
    "eval": RUN_OPTIONS,
    "plan": (PlanOptions,),
    "recipe": (commands.RecipeOptions,),
    "export": commands.EXPORT_OPTIONS,
    "chat": CHAT_OPTIONS,
    "ask": (commands.AskOptions, *CHAT_OPTIONS),
    "task": commands.TASK_OPTIONS,
    "web": (WebOptions, *CHAT_OPTIONS),
    "api": API_OPTIONS,
    "demo": (DemoOptions,),
    "tokenizer": (commands.TokenizerOptions,),
    "convert_llama": (commands.LlamaOptions,),
    "consult": (consultation.ConsultOptions,),
    "consult_report": (consultation.ConsultReportOptions,),
    "consult_eval": (consultation.ConsultEvalOptions,),
    "safety_eval": (safety.SafetyEvalOptions,),
    "safety_check": (safety.SafetyCheckOptions,),
    "safety_train": (safety.SafetyTrainOptions,),
    "guard_eval": (safety.GuardEvalOptions,),
    "guard_train": (safety.GuardTrainOptions,),
    "keys_add": (commands.AddKeyOptions,),
    "keys_list": (commands.ListKeysOptions,),
    "keys_revoke": (commands.RevokeKeyOptions,),
    "accounts_add": (store.AddAccountOptions,),
    "accounts_invite": (store.InviteOptions,),
    "accounts_list": (store.ListAccountsOptions,),
    "accounts_reset": (store.ResetAccountOptions,),
    "accounts_disable": (store.SwitchAccountOptions,),
    "accounts_enable": (store.SwitchAccountOptions,),
    "accounts_forget": (store.ForgetAccountOptions,),
    "store_backup": (store.BackupOptions,),
    "store_restore": (store.RestoreOptions,),
    "store_prune": (store.PruneOptions,),
    "store_encrypt": (store.EncryptOptions,),
    "store_new-key": (store.NewKeyOptions,),
    "models_list": (commands.ListModelsOptions,),
    "models_show": (commands.ShowModelOptions,),
    "models_pull": (commands.PullModelOptions,),
    "models_verify": (commands.VerifyModelOptions,),
    "models_add": (commands.AddModelOptions,),
    "template_list": (template.ListTemplatesOptions,),
    "template_show": (template.ShowTemplateOptions,),
    "template_check": template.TEMPLATE_CHECK_OPTIONS,
    "template_audit": (template.AuditTemplateOptions,),
    **{
        f"data_{re.sub('(?<=[a-z])(?=[A-Z])', '-', name.removesuffix('Options')).lower()}": (group,)
        for name, group in vars(data_commands).items()
        if name.endswith("Options")
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
        fields = [field for field in _fields(group, words) if field[0].lstrip("-") not in UNREAD.get(verb, ())]
        if not fields:
            continue
        table = _table(words["options"], [_row(*field) for field in fields])
        parts += [f"### {group_name(group)} options", "", *table, ""]
        if group is TrainingOptions:
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
    """(name, type, default, meaning) of the options, those of the class itself and of its base."""
    found = []
    for field in option_fields(group):
        value = default_of(field)
        default = words["required"] if value is dataclasses.MISSING else _value(value, words["none"])
        names = "`, `".join(f"--{name}" for name in (field.name, *field.metadata["names"]))
        found.append((names, _takes(option_types(group)[field.name]), default, field.metadata["help"]))
    return found


def _takes(shape: OptionType) -> Any:
    """The values that an option has, or what kind they are."""
    if shape.choices:
        return shape.choices
    kind = {str: "text", int: "number", float: "number", bool: "true, false"}[shape.kind]
    return f"{kind}, one or more" if shape.many else kind


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
