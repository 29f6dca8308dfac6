"""Whether a training fits into the memory that there is: the estimate, what is there, and what would help.

check_memory(session)     # raises UserError before the weights are read
"""

from __future__ import annotations

import logging
import textwrap
from dataclasses import replace

from carellama import hardware
from carellama.config.environment import local_processes
from carellama.errors import UserError, import_object
from carellama.hardware import format_bytes, has_gpu, process_memory_bytes
from carellama.records import JSONObject
from carellama.train import TRAINERS
from carellama.train.memory.estimate import estimate_memory, suggestions
from carellama.train.session import Session

log = logging.getLogger(__name__)


def check_memory(session: Session) -> None:
    """Say what a training will need. Raises `UserError` where there is less, unless --skip_plan is given."""
    if session.options.own.skip_plan:
        return
    try:
        found = estimate_and_compare(session)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - a model that cannot be built without weights may well train
        log.warning("memory: no estimate of this model (%s)", textwrap.shorten(str(error), 200, placeholder=" ..."))
        return
    have = "" if found["available"] is None else f" of {format_bytes(found['available'])}"
    log.info("memory: about %s%s", format_bytes(found["total"]), have)
    for note in found["notes"]:
        log.info("memory: %s", note)
    if not found["fits"]:
        raise UserError(out_of_memory_message(found))


def estimate_and_compare(session: Session) -> JSONObject:
    """The memory by part, what there is, whether it fits, and else what would help (with its own estimate)."""
    import_object(TRAINERS[session.options.stage.name])  # it is held as well
    process = process_memory_bytes()
    found = estimate_memory(session, process)
    there = hardware.available_memory_bytes()
    if there is not None and not has_gpu():  # what is free is shared, what each holds already is its own
        there = process + (there - process) // local_processes()
    fits = there is None or found.total <= there
    advice = []
    if not fits:
        for words, changed in suggestions(session.options):
            need = estimate_memory(replace(session, options=changed), process).total
            if need < found.total:
                advice.append({"change": words, "total": need, "fits": need <= (there or need)})
        advice.sort(key=lambda one: (not one["fits"], one["total"]))
    return {
        "parts": found.parts,
        "total": found.total,
        "available": there,
        "fits": fits,
        "advice": advice,
        "notes": found.notes,
        "largest_batch": {
            "records": len(found.batch.lengths),
            "tokens": found.batch.tokens,
            "padded": found.batch.padded,
        },
    }


def out_of_memory_message(found: JSONObject) -> str:
    """One line: what is needed, what there is, what would help."""
    words = [f"{one['change']} (about {format_bytes(one['total'])})" for one in found["advice"]]
    enough = [word for word, one in zip(words, found["advice"], strict=True) if one["fits"]]
    if enough:
        help_ = f"any of these would fit: {'; '.join(enough)}"
    elif words:
        help_ = f"no single change is enough; together these bring most: {'; '.join(words[:3])}"
    else:
        help_ = "take a smaller model"
    return (
        f"this training needs about {format_bytes(found['total'])} of memory and there are "
        f"{format_bytes(found['available'])}: {help_}; --skip_plan tries it all the same"
    )
