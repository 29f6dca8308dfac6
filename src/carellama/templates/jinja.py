"""Chat formats as Jinja, which is how Hugging Face tokenizers keep them: rendered, and read for what they do.

    copies_contents(chat_template)      # whether it writes every message as it is
    render_chat(chat_template, [{"role": "user", "content": "Hi"}], tools=None, bos="<s>", eos="</s>")

In training a template is rendered by the tokenizer (`carellama.templates.template`); `render_chat` gives the same text
where no tokenizer of transformers is loaded. The named formats are of `carellama.templates.format`.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from carellama.errors import UserError
from carellama.records import JSONObject, Message, Tool, ToolCall
from carellama.text import split_reasoning

OPEN, CLOSE = "\ue000", "\ue001"  # private-use characters around the number of a placeholder


class _Generation(Extension):
    """`{% generation %}`: the part of a conversation that a trainer learns from; here it is text like the rest."""

    tags = {"generation"}  # noqa: RUF012  (as jinja2 declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        """Take the statements between the tags."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Namespace(jinja2.utils.Namespace):
    """What `namespace()` makes; names that begin with an underscore could lead out of the sandbox."""

    def __init__(*args: Any, **named: Any) -> None:  # so that a namespace may hold the name "self"
        jinja2.utils.Namespace.__init__(args[0])
        for name, value in dict(*args[1:], **named).items():
            args[0][name] = value

    def __setitem__(self, name: str, value: object) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace takes no name with an underscore first: {name}")
        super().__setitem__(name, value)


class _Dict:
    """What `dict` is: it makes dictionaries, and leads nowhere else."""

    def __call__(self, *pairs: Any, **named: Any) -> dict[Any, Any]:
        return dict(*pairs, **named)

    def fromkeys(self, *given: Any) -> dict[Any, Any]:
        return dict.fromkeys(*given)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _as_json(value: object, **how: Any) -> str:
    """As the `tojson` of chat templates is: no escapes for HTML, nor for what is not ASCII."""
    return json.dumps(value, **{"ensure_ascii": False, **how})


@lru_cache(maxsize=8)
def _compiled(jinja: str) -> jinja2.Template:
    """The template in the environment that `apply_chat_template` has (transformers, utils/chat_template_utils.py)."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _as_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["namespace"] = _Namespace
    environment.globals["dict"] = _Dict()
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(jinja)


@contextmanager
def as_refusal(name: str) -> Iterator[None]:
    """Turn what compiling or rendering a chat template raises into a `UserError`; `name` says whose template it is.

    A chat template is a stranger's program: it may divide by zero, call itself for ever or ask for all memory.
    """
    try:
        yield
    except Exception as error:
        known = isinstance(error, (jinja2.TemplateError, TypeError, ValueError)) and str(error)
        reason = str(error) if known else f"{type(error).__name__}: {error}".removesuffix(": ")
        raise UserError(f"{name} refuses this conversation: {' '.join(reason.split())}") from error


def one_template(given: object) -> str | None:
    """The chat template that counts of what a tokenizer has: one as text, or several by name, of which it is `default`.

    None: it has none. Raises `UserError` for several without a `default`, and for what is no text.
    """
    if isinstance(given, (list, tuple)):  # as tokenizer_config.json has them
        given = {one.get("name"): one.get("template") for one in given if isinstance(one, dict)}
    if isinstance(given, dict):
        if given and "default" not in given:
            names = ", ".join(map(str, given))
            raise UserError(
                f"the tokenizer has chat templates of other names ({names}) and no default: give --template"
            )
        given = given.get("default")
    if given is not None and not isinstance(given, str):
        raise UserError(f"the tokenizer's chat template is no text but {given!r}")
    return given


def check_syntax(jinja: str) -> None:
    """Raise `UserError` for a model's chat template that cannot be compiled."""
    try:
        _compiled(jinja)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, jinja2.TemplateError) else str(error)
        line = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
        raise UserError(
            f"the model's chat template is no valid Jinja ({line}{' '.join(reason.split())}): give --template with the "
            "name of its format"
        ) from error


def render_chat(
    jinja: str, rows: list[JSONObject], *, tools: list[JSONObject] | None, bos: str, eos: str, start: bool = True
) -> str:
    """Return the text of `rows` as a Hugging Face tokenizer renders it; with `start` up to where an answer begins.

    `rows` are messages as chat templates take them, `tools` functions as OpenAI's API writes them. Raises `UserError`
    where the template is broken or refuses the conversation.
    """
    with as_refusal("the model's chat template"):
        text = _compiled(jinja).render(
            messages=rows, tools=tools, documents=None, add_generation_prompt=start, bos_token=bos, eos_token=eos
        )
        text.encode()  # half a character (a lone surrogate) is no text
    return text


class _Unsure(Exception):
    """A construct of which it is not known what it does with contents."""


_LOOP = {"first", "last", "index", "index0", "length"}
_PARTS = (nodes.Add, nodes.Sub, nodes.Mul, nodes.Mod, nodes.FloorDiv, nodes.Neg, nodes.Compare, nodes.Operand)


def copies_contents(jinja: str) -> bool:
    """Whether a chat template, by its syntax, does nothing with contents but write them, whole or trimmed.

    What it writes around contents that are not blank is then the same for all of them, and a conversation need not
    be rendered to be known. False when unsure: such a template is rendered for each conversation.
    """
    try:
        tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(jinja)
        names = {"messages": "holder"}
        before: dict[str, str] = {}
        while before != names:  # until what is set late is known everywhere
            before = dict(names)
            for node in tree.body:
                _follow(node, names)
        return True
    except (_Unsure, jinja2.TemplateSyntaxError, RecursionError):
        return False


def _follow(node: nodes.Node, names: dict[str, str]) -> None:
    """Follow contents through one statement; `names` says what each variable may hold."""

    def bind(target: nodes.Node, kind: str) -> None:
        if not isinstance(target, nodes.Name):
            raise _Unsure
        kinds = {kind, names.get(target.name, kind)}
        if len(kinds) > 1 and "holder" in kinds:
            raise _Unsure
        names[target.name] = "text" if "text" in kinds else kind

    match node:
        case nodes.Output():
            if any(_kind(part, names) == "holder" for part in node.nodes if not isinstance(part, nodes.TemplateData)):
                raise _Unsure
        case nodes.If():
            _kind(node.test, names)
            for inner in [*node.body, *node.elif_, *node.else_]:
                _follow(inner, names)
        case nodes.For(test=None, recursive=False):
            if _kind(node.iter, names) != "holder":
                raise _Unsure
            bind(node.target, "holder")
            for inner in [*node.body, *node.else_]:
                _follow(inner, names)
        case nodes.Assign():
            bind(node.target, _kind(node.node, names))
        case _:
            raise _Unsure


def _kind(node: nodes.Node | None, names: dict[str, str]) -> str:
    """What an expression may hold: a content ("text"), messages ("holder"), or nothing of them ("other")."""
    match node:
        case nodes.Const():
            return "other"
        case nodes.Name():
            return names.get(node.name, "other")
        case nodes.Getattr(node=nodes.Name(name="loop"), attr=attribute) if attribute in _LOOP:
            return "other"
        case nodes.Getattr(attr=key) | nodes.Getitem(arg=nodes.Const(value=key)):
            if _kind(node.node, names) != "holder":
                raise _Unsure
            return "text" if key == "content" else "holder" if isinstance(key, int) else "other"
        case nodes.Getitem(arg=nodes.Slice()) if _kind(node.node, names) == "holder":
            return "holder"
        case nodes.Filter(name="trim", node=nodes.Getattr() | nodes.Getitem(), args=[]):
            return _kind(node.node, names)
        case nodes.Filter(name="length", args=[]) if _kind(node.node, names) == "holder":
            return "other"
        case nodes.Call(node=nodes.Name(name="raise_exception")):
            return "other"
        case nodes.Not():  # a content that is not blank is true
            _kind(node.node, names)
            return "other"
        case nodes.And() | nodes.Or() | nodes.Add() | nodes.Concat():
            kinds = {_kind(part, names) for part in node.iter_child_nodes()}
            if "holder" in kinds:
                raise _Unsure
            return "text" if "text" in kinds else "other"
        case _ if isinstance(node, _PARTS) and {_kind(part, names) for part in node.iter_child_nodes()} <= {"other"}:
            return "other"
    raise _Unsure


NINE = re.compile(r"\bid\s*\|\s*length\s*(?:!=|<|==)\s*9\b")  # a template that checks the ids of calls
MARKUP = re.compile(r"</?(?:think|tool_?calls?|tool_response|tools?|reasoning|arg_key|arg_value)>|<[|｜][^<>]+[|｜]>")


def is_markup(token: str, jinja: str) -> bool:
    """Whether an added token stands for markup: a known mark, or one in brackets that the chat template writes."""
    bracketed = len(token) > 2 and token[0] + token[-1] in ("<>", "[]")
    return bool(MARKUP.fullmatch(token)) or (bracketed and token in jinja)


# A chat template that answers directly: by the variable that Qwen3 and others know, or by what stands at its end.
_DIRECT = "{%- if enable_thinking is not defined -%}{%- set enable_thinking = false -%}{%- endif -%}"
_ASKED_TO_THINK = "{%- set asked_to_think = enable_thinking is defined and enable_thinking -%}"
_IF_DIRECT = "{% if add_generation_prompt and not asked_to_think %}{{ "
_END_DIRECT = " }}{% endif %}"


def without_reasoning(jinja: str, lead: str) -> list[str]:
    """Return chat templates whose generation prompt may have `lead` behind it; try them in turn."""
    ending = _IF_DIRECT + json.dumps(lead, ensure_ascii=False) + _END_DIRECT
    return [_DIRECT + jinja, _ASKED_TO_THINK + jinja.rstrip("\n") + ending]


def reasoning_allowed(jinja: str) -> str:
    """Return the chat template that `without_reasoning` was given."""
    start = jinja.rfind(_IF_DIRECT)
    return (jinja[:start] if start >= 0 else jinja).removeprefix(_DIRECT).removeprefix(_ASKED_TO_THINK)


def knows_tools(jinja: str) -> bool:
    """Whether a chat template writes tools itself."""
    return "tools" in jinja and "tool_calls" in jinja


def speaks_harmony(jinja: str) -> bool:
    """Whether a chat template is of gpt-oss, whose answers are messages of channels (github.com/openai/harmony)."""
    return "<|channel|>" in jinja and "<|message|>" in jinja


TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endofturn|>")  # tokens that end an answer
HARMONY_ENDS = ("<|return|>", "<|call|>")  # <|end|> ends a message there: the next one may be the answer


def turn_ends(jinja: str) -> list[str]:
    """Return the usual end tokens of an answer that a chat template writes."""
    return [end for end in (HARMONY_ENDS if speaks_harmony(jinja) else TURN_ENDS) if end in jinja]


def arguments_of(call: ToolCall) -> object:
    """Return the arguments of a call as an object; as they are where they are none."""
    try:
        return json.loads(call.arguments)
    except ValueError:
        return call.arguments


def as_rows(messages: Sequence[Message], arguments: Callable[[ToolCall], object] = arguments_of) -> list[JSONObject]:
    """Messages as chat templates take them: arguments of calls as objects, or what else `arguments` makes of a call."""
    rows: list[JSONObject] = []
    for message in messages:
        row: JSONObject = {"role": message.role, "content": message.content}
        if message.calls:
            row["tool_calls"] = [
                call.to_openai() | {"function": {"name": call.name, "arguments": arguments(call)}}
                for call in message.calls
            ]
        if message.role == "tool":
            row["tool_call_id"] = message.call_id
        rows.append(row)
    return rows


def without_thoughts(rows: list[JSONObject], jinja: str) -> list[JSONObject]:
    """Return the rows with answers alone: the reasoning before an answer is no part of a later turn's prompt."""
    cuts = "</think>" in jinja or "reasoning_content" in jinja  # and line breaks before an answer may go with it
    for row in rows:
        if row["role"] == "assistant":
            answer = split_reasoning(row["content"])[3]
            row["content"] = answer.lstrip("\n") if cuts else answer
    return rows


def with_short_ids(rows: list[JSONObject], jinja: str) -> list[JSONObject]:
    """Return the rows with ids of calls of nine letters or digits, where the template takes no others (Mistral's)."""
    if not NINE.search(jinja):
        return rows

    def short(given: str) -> str:
        return given if re.fullmatch(r"[A-Za-z0-9]{9}", given) else hashlib.sha256(given.encode()).hexdigest()[:9]

    for row in rows:
        for call in row.get("tool_calls", ()):
            call["id"] = short(call["id"])
        if "tool_call_id" in row:
            row["tool_call_id"] = short(row["tool_call_id"])
    return rows


def as_functions(tools: Sequence[Tool]) -> list[JSONObject]:
    """Tools as OpenAI's API and chat templates write them."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
        }
        for tool in tools
    ]
