"""The page of a model card in Chinese or English, as Markdown without its head.

    page(facts, "zh")

The words are data (words.yaml). What is not known is said, and nothing is made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import carellama
from carellama.export.cards.facts import CardFacts
from carellama.export.cards.notes import WORDS
from carellama.export.cards.results import Result, without_folders
from carellama.export.cards.trainings import DataFact, Training
from carellama.export.parity.table import GREEDY_TOKENS, ParityRow, ParityTable
from carellama.package_data import package_yaml
from carellama.templates.format import OWN


def page(facts: CardFacts, language: str) -> str:
    """Return the page of a card in `en` or `zh`."""
    words = package_yaml(WORDS)[language]
    title = words[f"title_{_title_kind(facts)}"].format(base=facts.title)
    parts = [
        [f"# {title}", "", words["notice"], "", *([] if not facts.ends else [words["other"], ""])],
        _summary(facts, words, language),
        _clashes(facts, words),
        _use(facts, words, language),
        _trainings(facts, words),
        _evaluation(facts.results, words),
        _files(facts.parity, words, language) if isinstance(facts.parity, ParityTable) and facts.parity.rows else [],
    ]
    return "\n".join(line for part in parts for line in part)


def _title_kind(facts: CardFacts) -> str:
    if not facts.ends:  # of the folder that a training has filled
        return "adapter" if facts.adapter else "weights"
    return "exported" if not facts.trainings and facts.relation in (None, "quantized") else "finetuned"


def _summary(facts: CardFacts, words: dict[str, Any], language: str) -> list[str]:
    base = facts.base
    lines = [words["base"].format(base=base.hub or base.name)]
    if facts.relation in words["relations"]:
        lines.append(words["relation"].format(relation=words["relations"][facts.relation]))
    if base.unpacked:
        close = base.hub and base.relation == "quantized"
        lines.append(words["gguf_base"] + (words["gguf_hub"].format(hub=base.hub) if close else ""))
    papers = f" ({', '.join(facts.licence_files)})" if facts.licence_files else ""
    lines.append(words["licence"].format(licence=base.licence or words["licence_unknown"]) + papers)
    if facts.template:
        ends = words["or"].join(f"`{end!r}`" for end in facts.ends)
        template = words["own_template"] if facts.template == OWN else facts.template
        lines.append(words["template"].format(template=template, ends=ends))
    if isinstance(facts.parity, str):
        lines.append(words["as_written"].format(line=facts.parity))
    lines += [*(one.text(language) for one in facts.notes), words["made"].format(version=carellama.__version__)]
    return [*(f"- {line}" for line in lines), ""]


def _clashes(facts: CardFacts, words: dict[str, Any]) -> list[str]:
    lines = [f"- {line}" for line in clash_lines(facts, words)]
    return [f"## {words['clashes']}", "", words["clash_intro"], "", *lines, ""] if lines else []


def clash_lines(facts: CardFacts, words: dict[str, Any]) -> list[str]:
    """What does not agree, in words."""
    lines = []
    for one in facts.clashes:
        unknown = one.kind.startswith("unknown")
        source = one.source if unknown else words["the_data"].format(source=one.source)
        source = words["the_base"] if one.source == "base" else source
        declared = one.declared or words["unstated"]
        lines.append(words["clash"][one.kind].format(source=source, licence=one.licence, declared=declared))
    return lines


def spoken_languages(languages: Sequence[str], language: str) -> str:
    """The names of languages, in one of the two of the card."""
    names: dict[str, str] = package_yaml(WORDS)["languages"][language]
    return names["and"].join(names.get(one, one) for one in languages) or names["none"]


def _use(facts: CardFacts, words: dict[str, Any], language: str) -> list[str]:
    spoken = spoken_languages(facts.languages, language)
    reward = facts.kind == "reward"
    uses = words["reward_uses"] if reward else [one.format(languages=spoken) for one in words["uses"]]
    limits = [*(words["reward_limits"] if reward else words["limit"][:1]), *words["limit"][1:]]
    if missed := _missed_emergencies(facts):
        limits.insert(0, words["missed_emergencies"].format(missed=missed[0], cases=missed[1]))
    sections = ((words["use"], uses), (words["not_for"], words["nots"]), (words["limits"], limits))
    return [line for title, lines in sections for line in (f"## {title}", "", *(f"- {one}" for one in lines), "")]


def _missed_emergencies(facts: CardFacts) -> tuple[int, int] | None:
    """How many emergencies the trained model alone missed, and of how many; None: none missed, or not measured."""
    rows = facts.parity.rows if isinstance(facts.parity, ParityTable) else ()
    safety = next((row.safety for row in rows if row.safety), None)
    return (safety.missed_before, safety.emergencies) if safety and safety.missed_before else None


def _trainings(facts: CardFacts, words: dict[str, Any]) -> list[str]:
    if not facts.trainings:
        return [words["no_record"], ""]
    lines: list[str] = []
    for number, training in enumerate(facts.trainings, start=1):
        title = f"{words['training']} {number}" if len(facts.trainings) > 1 else words["training"]
        lines += [f"## {title}", "", *_training(training, words)]
    return lines


def _training(training: Training, words: dict[str, Any]) -> list[str]:
    """The lines of one training: data with digests and licences, settings, results, what it cost."""
    lines = _data_table(training.data, words) if training.data else []
    if training.settings:
        lines += _table([words["setting"], words["value"]], training.settings)
    if training.results:
        lines += _table([words["result"], words["value"]], training.results)
    stated = []
    if training.seconds is not None or training.flop is not None:
        time = _time(training.seconds, words) if training.seconds is not None else words["unstated"]
        flop = f"{training.flop:.3g}" if training.flop is not None else words["unstated"]
        stated.append(words["cost"].format(time=time, flop=flop))
    if training.base:
        stated.append(words["trained_on"].format(base=training.base))
    if training.commit:
        stated.append(words["code"].format(commit=training.commit))
    if training.versions:
        stated.append(words["libraries"].format(versions=", ".join(" ".join(pair) for pair in training.versions)))
    return [*lines, *(f"- {one}" for one in stated), ""]


def _data_table(data: Sequence[DataFact], words: dict[str, Any]) -> list[str]:
    columns = list(dict.fromkeys(key for one in data for key in one.columns))
    header = [words["name"], "SHA-1", *(words["data_columns"].get(key, key) for key in columns), words["data_licence"]]
    rows = [
        [one.name, one.digest or "", *(one.columns.get(key, "") for key in columns), one.licence or words["unstated"]]
        for one in data
    ]
    return _table(header, rows)


def _evaluation(results: Sequence[Result], words: dict[str, Any]) -> list[str]:
    if not results:
        return [f"## {words['evaluation']}", "", words["not_evaluated"], ""]
    judged = any(one.judge for one in results)
    header = [*(words[key] for key in ("test", "metric", "value", "interval", "cases")), *([words["judge"]] * judged)]
    rows = [
        [
            one.test, words["metrics"].get(one.metric, one.metric), one.value,
            "" if one.low is None or one.high is None else f"{one.low:.4g} – {one.high:.4g}",
            "" if one.n is None else one.n,
            *([one.judge] * judged),
        ]
        for one in results
    ]  # fmt: skip
    return [f"## {words['evaluation']}", "", words["interval_note"], "", *_table(header, rows)]


def _files(parity: ParityTable, words: dict[str, Any], language: str) -> list[str]:
    """What was compared, form by form; a column that no form has is left out."""
    cells = [_parity_cells(row, words) for row in parity.rows]
    names = [name for name in words["columns"] if any(row.get(name) for row in cells)]
    past = [f"- **{words['past']}** {one}" for one in parity.past]  # first: nobody may miss it
    lines = [f"## {words['files']}", "", *past, *([""] if past else [])]
    triage = words["triage_compared" if "safety" in names else "triage_not_compared"]
    lines += [words["files_intro"].format(greedy=GREEDY_TOKENS) + triage, ""]
    lines += _table(
        [words["columns"][name] for name in names], [[row.get(name, "") for name in names] for row in cells]
    )
    if parity.perplexity is not None:
        lines.append(f"- {words['trained_perplexity'].format(perplexity=f'{parity.perplexity:.4g}')}")
    for row in parity.rows:
        if limits := parity.limits(row, language):
            lines.append(f"- {words['allowed'].format(form=row.name, limits=limits)}")
        if row.tensor_types:
            types = ", ".join(f"{name} × {count}" for name, count in row.tensor_types.items())
            lines.append(f"- {words['tensors'].format(form=row.form, types=types)}")
    return [*lines, ""]


def _parity_cells(row: ParityRow, words: dict[str, Any]) -> dict[str, str]:
    same = {True: words["equal"], False: words["differ"]}
    cells = {
        "form": row.name,
        "reader": f"{row.reader}, {row.dtype}",
        "ids": same[row.ids_equal],
        "ends": same[row.end_tokens_equal],
        "logits": f"{row.max_logit_difference:.2g}",
    }
    if row.greedy_equal is not None:
        cells["greedy"] = f"{row.greedy_equal} / {GREEDY_TOKENS}"
    if row.kl_mean is not None and row.kl_999 is not None:
        cells["kl"] = f"{row.kl_mean:.2g} / {row.kl_999:.2g}"
    if row.top1_agreement is not None:
        cells["top1"] = f"{row.top1_agreement:.2%} ({row.tokens})"
    if row.perplexity is not None:
        cells["perplexity"] = f"{row.perplexity:.4g}"
    if (safety := row.safety) is not None:
        others = safety.cases - safety.emergencies
        cells["safety"] = f"{safety.changed} / {safety.cases}"
        cells["missed"] = _before_after(safety.missed_before, safety.missed_after, safety.emergencies)
        cells["alarms"] = _before_after(safety.false_alarms_before, safety.false_alarms_after, others)
    return cells


def _before_after(before: int, after: int, cases: int) -> str:
    return f"{before} → {after} / {cases}"


def _time(seconds: float, words: dict[str, Any]) -> str:
    if seconds < 120:
        return str(words["seconds"].format(n=f"{seconds:.0f}"))
    if seconds < 7200:
        return str(words["minutes"].format(n=f"{seconds / 60:.0f}"))
    return str(words["hours"].format(n=f"{seconds / 3600:.1f}"))


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A Markdown table."""
    cells = [[f"{cell:.6g}" if isinstance(cell, float) else without_folders(str(cell)) for cell in row] for row in rows]
    body = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [list(header), *cells]]
    body.insert(1, ["---"] * len(header))
    return [*("| " + " | ".join(row) + " |" for row in body), ""]
