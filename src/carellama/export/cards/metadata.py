"""The head of a card, which the Hugging Face hub reads; checked by huggingface_hub's own classes.

head(facts)           # {"license": "apache-2.0", "base_model": ..., "model-index": [...]}
"""

from __future__ import annotations

from typing import Any

from carellama.errors import UserError
from carellama.export.cards.facts import CardFacts
from carellama.export.cards.licences import hub_licence
from carellama.export.parity.table import ParityTable


def head(facts: CardFacts) -> dict[str, object]:
    """Return keys and values as the hub's documentation has them. Raises `UserError` where its library refuses them."""
    base = facts.base
    methods = [one for training in facts.trainings for one in (training.stage, training.method) if one]
    reward = facts.kind == "reward"
    tags = ["medical", "carellama", *methods, *(["reward-model"] if reward else [])]
    licence = hub_licence(base.licence)
    front: dict[str, object] = {
        **licence,
        "license_link": base.licence_link if licence["license"] == "other" else None,
        "base_model": list(base.hubs) if len(base.hubs) > 1 else base.hub,
        "base_model_relation": "merge" if len(base.hubs) > 1 else facts.relation if base.hubs else None,
        "datasets": list(dict.fromkeys(one.hub for one in facts.data if one.hub)),
        "language": facts.languages,
        "pipeline_tag": "text-classification" if reward else "text-generation",
        "library_name": _library(facts),
        "tags": list(dict.fromkeys(tags)),
    }
    found = {key: value for key, value in front.items() if value}
    return found | _model_index(facts, found)


def _library(facts: CardFacts) -> str | None:
    """The library that loads the folder; None where it has only .gguf files, a page or OpenVINO's form."""
    rows = facts.parity.rows if isinstance(facts.parity, ParityTable) else ()
    if rows and all(row.file.endswith(".gguf") or row.form in ("web", "openvino") for row in rows):
        return None
    return "peft" if facts.adapter else "transformers"


def _model_index(facts: CardFacts, front: dict[str, object]) -> dict[str, object]:
    """The results as the hub's `model-index`; nothing where there are none."""
    from huggingface_hub import EvalResult, ModelCardData

    task = str(front["pipeline_tag"])
    results = [
        EvalResult(
            task_type=task, dataset_type=_id(one.test), dataset_name=one.test, metric_type=_id(one.metric),
            metric_value=round(one.value, 6), metric_name=_metric_name(one.metric, one.low, one.high, one.n),
        )
        for one in facts.results
    ]  # fmt: skip
    try:
        data: Any = ModelCardData(model_name=facts.title, eval_results=results or None, **front)  # type: ignore[arg-type]
        written = data.to_dict()
    except (ValueError, TypeError) as error:
        raise UserError(f"the head of the model card is not what the Hugging Face hub takes: {error}") from error
    return {"model-index": written["model-index"]} if results else {}


def _metric_name(name: str, low: float | None, high: float | None, n: int | None) -> str:
    """A metric with its interval and count, for which the hub has no fields."""
    parts = [name]
    if low is not None and high is not None:
        parts.append(f"95% interval {low:.4g} to {high:.4g}")
    if n is not None:
        parts.append(f"n {n}")
    return ", ".join(parts)


def _id(text: str) -> str:
    """A name as the hub's ids are spelled."""
    return "".join(one if one.isalnum() or one in "-_." else "-" for one in text).strip("-") or "test"
