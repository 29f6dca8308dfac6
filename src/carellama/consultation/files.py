"""Reports as files, and `carellama consult report`, which makes one from a saved conversation.

    carellama consult report conversation.json --output report.pdf

The conversation is what `/save` of the terminal writes, or one of OpenAI's messages. It is read by rules alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from carellama.config.consultation import ConsultReportOptions
from carellama.config.reader import parse_options
from carellama.config.safety import split_files
from carellama.consultation.interview import Interview
from carellama.consultation.report import Report, to_html, to_markdown, to_pdf
from carellama.errors import UserError, lookup, read_failure
from carellama.files import write_private
from carellama.records import Message, Role
from carellama.safety.layer import SafetyLayer

ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"
}  # fmt: skip


def _json(report: Report) -> bytes:
    return (json.dumps(report.as_json(), ensure_ascii=False, indent=2) + "\n").encode("utf-8", "replace")


FORMS: Mapping[str, Callable[[Report], bytes]] = {
    ".md": lambda report: to_markdown(report).encode("utf-8", "replace"),
    ".html": lambda report: to_html(report).encode("utf-8", "replace"),
    ".pdf": to_pdf,
    ".json": _json,
}


def report_bytes(report: Report, file: str) -> bytes:
    """Return a report in the form that the suffix of a file name asks for. Raises `UserError` for another suffix."""
    return lookup(FORMS, Path(file).suffix.lower(), "suffix of a report")(report)


def read_conversation(path: Path) -> list[Message]:
    """Return the messages of a file. Raises `UserError` for one that holds no conversation, or more than one."""
    try:
        read = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {read_failure(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if isinstance(read, list) and read and all(isinstance(one, dict) and "messages" in one for one in read):
        if len(read) > 1:
            raise UserError(f"{path} holds {len(read)} conversations; a report is of one")
        read = read[0]
    rows = read.get("messages") if isinstance(read, dict) else read
    if not isinstance(rows, list) or not rows:
        raise UserError(f'{path} holds no conversation; it must be {{"messages": [...]}} or what /save writes')
    messages = [_message(row, f"{path}, message {number}") for number, row in enumerate(rows, 1)]
    if not any(one.role == "user" and one.content.strip() for one in messages):
        raise UserError(f"{path}: no message of the role user has a text; a report is of what a person said")
    return messages


def _message(row: object, place: str) -> Message:
    if not isinstance(row, dict) or row.get("role") not in ROLES:
        raise UserError(f"{place} has no role; it must be one of {', '.join(ROLES)}")
    content = row.get("content")
    if isinstance(content, list):  # parts, as OpenAI has them
        found = [part.get("text") if isinstance(part, dict) else None for part in content]
        texts = [text for text in found if isinstance(text, str)]
        if len(texts) < len(found):
            raise UserError(f"{place} has a part that is not a text; a report is made of texts alone")
        content = "\n".join(texts)
    if not isinstance(content, str | None):
        raise UserError(f"{place}: its content is not a text")
    return Message(ROLES[row["role"]], content or "")


def report(argv: Sequence[str]) -> None:
    """Write the report of a saved conversation."""
    (options,) = parse_options(
        (ConsultReportOptions,), argv, "carellama consult report FILE", positional="conversation"
    )
    conversation = Path(options.conversation[0])
    messages = read_conversation(conversation)
    if options.output is not None and Path(options.output).resolve() == conversation.resolve():
        raise UserError(f"--output {options.output} is the conversation; give another name, so that it stays")
    more = split_files(options.safety_rules)
    layer = SafetyLayer("on", options.country, more, options.classifier)
    made = Interview(layer).report(messages)
    if options.output is None:
        sys.stdout.write(to_markdown(made).encode("utf-8", "replace").decode("utf-8") + "\n")
        return
    data, output = report_bytes(made, options.output), Path(options.output)
    write_private(output, data, replace=options.overwrite)
    print(f"saved: {output}", file=sys.stderr)
