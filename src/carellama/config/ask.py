"""The options of `carellama ask`, besides those of all verbs that answer. Loads no library."""

from __future__ import annotations

from dataclasses import dataclass, field

from carellama.config.option import about


@dataclass(frozen=True)
class AskArguments:
    """What is asked, and how the answer is given."""

    question: list[str] = field(metadata=about('The question, in the first words; "-": it is read from stdin.'))
    json: bool = field(
        default=False, metadata=about("One line of JSON: text, finish_reason (stop, length, tool_calls) and usage.")
    )
