"""Layouts of one question with one answer."""

from __future__ import annotations

import re

from carellama.data.catalogue.layout import Layout, text_of
from carellama.data.read import Row
from carellama.records import Chat, Message

PROMPT_WRAP = re.compile(r"^<s>\s*问：\s*(.*?)\s*答：\s*$", re.DOTALL)


def _query_response(row: Row) -> Chat:
    """{query, response}: ChatMed, ShenNong. Their test files keep the model's prompt around the query."""
    query = text_of(row, "query")
    wrapped = PROMPT_WRAP.match(query)
    question = wrapped[1] if wrapped else query
    return Chat((Message("user", question), Message("assistant", text_of(row, "response"))), row.place)


LAYOUTS = {"query-response": Layout("sft", ("query", "response"), _query_response)}
