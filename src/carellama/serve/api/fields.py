"""Every field of a request, and what the server does with it: uses it, needs it for nothing, leaves it out, refuses it.

    check_fields(body)      # the names that are left out; raises `InvalidRequest` (400) for a field that is refused

The fields are those of OpenAI, vLLM, llama.cpp, Ollama and SGLang. A field that limits the answer or changes its form
is used or refused, never ignored. One that only tunes another server is left out: the response names it in the header
`x-carellama-ignored`, and the log says so once. Unknown fields are treated alike, except for a misspelt one.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple

from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.schemas import RequestModel

log = logging.getLogger(__name__)

HEADER = "x-carellama-ignored"
MOST_NAMES = 100  # of fields that the log has named; clients invent them


Effect = Literal["used", "harmless", "left out", "refused"]


class Field(NamedTuple):
    """What happens with a field; `neutral` are values that ask for nothing."""

    effect: Effect
    about: str = ""
    neutral: tuple[object, ...] = ()


TABLE: list[tuple[Effect, str, tuple[object, ...], str]] = [  # effect, about, neutral values, names
    ("used", "", (), "messages model prompt stream stream_options n max_tokens max_completion_tokens best_of echo"),
    ("used", "of /v1/completions and /tokenize", (), "parse_special"),
    ("used", "", (), "temperature top_p top_k min_p repetition_penalty presence_penalty frequency_penalty seed"),
    ("used", "", (), "stop logit_bias logprobs top_logprobs modalities tools tool_choice parallel_tool_calls"),
    ("used", "of /v1/chat/completions", (), "mode"),
    ("used", "repetition_penalty by llama.cpp's name", (), "repeat_penalty"),
    ("used", "what limits the answer", (), "response_format structured_outputs json_schema grammar format regex ebnf"),
    ("used", "what limits the answer", (), "guided_json guided_regex guided_choice guided_grammar"),
    ("used", "where the answer may end", (), "min_tokens ignore_eos stop_token_ids"),
    ("used", "of other routes", (), "input input_type encoding_format dimensions query documents top_n"),
    ("used", "of other routes", (), "return_documents"),
    # An answer is the same with and without them.
    ("harmless", "not kept", (), "user safety_identifier metadata store service_tier"),
    ("harmless", "the server caches by itself", (), "prompt_cache_key prompt_cache_retention cache_prompt cache_salt"),
    ("harmless", "a hint for speed", (), "prediction guided_decoding_backend"),
    ("harmless", "send the header x-request-id", (), "request_id"),
    ("harmless", "reasoning has its own field", (), "separate_reasoning include_reasoning stream_reasoning"),
    ("harmless", "texts are whole", (), "spaces_between_special_tokens"),
    # They tune another server.
    ("left out", "the chat template decides", (False,), "think enable_thinking thinking thinking_budget reasoning"),
    ("left out", "the chat template decides", (), "reasoning_effort verbosity"),
    ("left out", "set when the server starts", (), "num_ctx num_keep num_batch num_gpu num_thread use_mmap use_mlock"),
    ("left out", "set when the server starts", (), "keep_alive n_keep id_slot"),
    ("left out", "no such sampler", (0,), "mirostat mirostat_tau mirostat_eta tfs_z typical_p top_a top_n_sigma"),
    ("left out", "no such sampler", (0,), "samplers min_keep dynatemp_range dynatemp_exponent xtc_probability"),
    ("left out", "no such sampler", (0,), "xtc_threshold dry_multiplier dry_base dry_allowed_length"),
    ("left out", "no such sampler", (0,), "dry_penalty_last_n dry_sequence_breakers"),
    ("left out", "penalties look at the whole conversation", (), "repeat_last_n penalize_newline"),
    (
        "left out",
        "no such sampler",
        (0,),
        "no_repeat_ngram_size penalty_alpha epsilon_cutoff eta_cutoff smoothing_factor",
    ),
    ("left out", "there is one model", ([],), "models route provider transforms plugins"),
    ("left out", "", (0, False), "priority timings_per_token kv_transfer_params mm_processor_kwargs"),
    # They would change the answer, or what it consists of.
    ("refused", "an older form; send tools and tool_choice", ([], "none", "auto"), "functions function_call"),
    ("refused", "this server reads and writes text only", ([],), "audio web_search_options prompt_embeds images"),
    ("refused", "this model continues a text and fills no gaps", ("",), "suffix"),
    ("refused", "send the beginning of the answer to /v1/completions", (False,), "continue_final_message"),
    ("refused", "only true is supported", (True,), "add_generation_prompt add_special_tokens skip_special_tokens"),
    ("refused", "--template of the server decides", ({},), "chat_template chat_template_kwargs"),
    ("refused", "", (False,), "use_beam_search include_stop_str_in_output return_tokens_as_token_ids no_stop_trim raw"),
    ("refused", "", (False,), "return_token_ids return_tokens structural_tag guided_whitespace_pattern watermark"),
    ("refused", "", (0, []), "prompt_logprobs truncate_prompt_tokens allowed_token_ids bad_words logits_processors"),
    ("refused", "", (), "vllm_xargs custom_logit_processor"),
    ("refused", "there is no beam search", (1, 1.0), "length_penalty num_beams"),
    ("refused", "send min_tokens", (0,), "min_new_tokens"),
    ("refused", "send max_tokens", (), "n_predict num_predict max_new_tokens max_length max_output_tokens"),
    ("refused", "send stop", ([],), "stop_sequences stopping_strings"),
    ("refused", "send response_format", ({},), "response_schema output_format json_mode guided_decoding"),
    ("refused", "send grammar", ("",), "grammar_string"),
    ("refused", "send ignore_eos", (False,), "ban_eos_token"),
    ("refused", "send logit_bias", ("", []), "bad_words_ids suppress_tokens custom_token_bans"),
    ("refused", "", ("", 1, 1.0), "guidance_scale negative_prompt truncation_length"),
    ("refused", "send logprobs and top_logprobs", (0,), "n_probs"),
    ("refused", "send its fields beside messages", ({},), "options extra_body"),
    ("refused", "send model: carellama:ADAPTER", ([],), "lora lora_path lora_request"),
    ("refused", "send temperature: 0 for the likeliest token", (True,), "do_sample"),
    ("refused", "send messages", ("", []), "template system context instructions character instruction_template"),
    ("refused", "texts are never cut", (False,), "truncation_side truncate max_tokens_per_doc max_chunks_per_doc"),
    ("refused", "documents are texts", (), "rank_fields"),
]
FIELDS = {name: Field(effect, about, neutral) for effect, about, neutral, names in TABLE for name in names.split()}
# Of a message. `prefix` and `partial` ask that the answer continues an assistant's message.
OF_MESSAGES = {
    # what clients keep of an earlier answer
    **dict.fromkeys(("annotations", "audio", "reasoning_content", "reasoning", "reasoning_details"), Field("harmless")),
    **dict.fromkeys(("id", "timestamp", "created_at", "createdAt", "metadata", "cache_control"), Field("harmless")),
    "name": Field("left out", "chat templates have no names"),
    "prefix": Field("refused", "send the beginning of the answer to /v1/completions", (False,)),
    "partial": Field("refused", "send the beginning of the answer to /v1/completions", (False,)),
    "function_call": Field("refused", "an older form; send tool_calls"),
    "images": Field("refused", "this model reads text only", ([],)),
}
_named: set[str] = set()


def check_fields(body: RequestModel) -> list[str]:
    """Return the names of the fields of a request that the server leaves out, and log each once.

    Raises `InvalidRequest` (400) with the field's name for one that is refused, and for one that looks misspelt.
    """
    known = {name.removesuffix("_") for name in type(body).model_fields}
    left_out = [name for name, value in (body.model_extra or {}).items() if _is_left_out(name, value, known)]
    for index, message in enumerate(getattr(body, "messages", None) or ()):
        for name, value in (getattr(message, "model_extra", None) or {}).items():
            field, where = OF_MESSAGES.get(name), f"messages.{index}.{name[:64]}"
            near = difflib.get_close_matches(name, type(message).model_fields, 1, 0.8)
            if field is None and value and near:
                raise InvalidRequest(f"{where}: no such field; did you mean {near[0]}?", where, "unknown_parameter")
            if value is None or (field is not None and (field.effect == "harmless" or not _asks(field, value))):
                continue
            if field is not None and field.effect == "refused":
                raise InvalidRequest(f"{where} is not supported: {field.about}", where, "unsupported_parameter")
            left_out.append(f"messages.{name}")
    for place, part in _parts(body):
        names = {field.alias or name for name, field in type(part).model_fields.items()}
        for name, value in (part.model_extra or {}).items():
            where = f"{place}.{name[:64]}"
            if value is not None and (near := difflib.get_close_matches(name, names, 1, 0.8)):
                raise InvalidRequest(f"{where}: no such field; did you mean {near[0]}?", where, "unknown_parameter")
            left_out += [where] if value is not None else []
    found = list(dict.fromkeys(left_out))
    _say_once(found)
    return found


def _parts(body: RequestModel, place: str = "") -> Iterator[tuple[str, RequestModel]]:
    """The objects within a request with their names; but messages and items, and what reads its own fields."""
    for name in type(body).model_fields:
        value = getattr(body, name)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, RequestModel) and name not in ("messages", "input", "documents", "structured_outputs"):
                yield f"{place}{name}", one
                yield from _parts(one, f"{place}{name}.")


def _is_left_out(name: str, value: object, known: Collection[str]) -> bool:
    field = FIELDS.get(name)
    if field is None:
        if value is not None and (near := difflib.get_close_matches(name, known, 1, 0.85)):
            raise InvalidRequest(f"{name[:64]}: no such field; did you mean {near[0]}?", name[:64], "unknown_parameter")
        return value is not None
    if not _asks(field, value) or field.effect == "harmless":
        return False
    if field.effect == "left out":
        return True
    about = field.about if field.effect == "refused" else "it belongs to another route"
    raise InvalidRequest(f"{name} is not supported{': ' * bool(about)}{about}", name, "unsupported_parameter")


def _asks(field: Field, value: object) -> bool:
    """Whether a value asks for anything; 1 is not true."""
    return value is not None and not any(type(value) is type(one) and value == one for one in field.neutral)


def _say_once(names: list[str]) -> None:
    for name in names:
        if name in _named or len(_named) >= MOST_NAMES:
            continue
        _named.add(name)
        field = FIELDS.get(name) or OF_MESSAGES.get(name.removeprefix("messages."))
        about = field.about if field else "an unknown field"
        log.warning("requests have %r, which this server leaves out%s%s", name[:64], ": " * bool(about), about)
