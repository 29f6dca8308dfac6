"""Scores of answers by a reward model: an adapter on the policy's own base, another model, or a server.

    score = load_reward("output/rm", config, tokenizer, policy)
    score([(Message("user", "My ear hurts."),)], ["Please see a doctor."])   # [1.7]

    name              what is loaded
    a folder, or a,b  an adapter of --stage rm, after those that it was trained on top of; where the policy's base is
                      the same it works on those very weights (`_reward_on_policy_base`), else a copy of the base is
                      loaded
    a model           folder or hub id of a sequence classification model with one label and its own tokenizer
    http(s)://...     a server that is sent {"messages": [[{"role", "content"}, ...], ...]}, conversations that end with
                      the answer, and that answers {"scores": [number, ...]}

A score is one of texts: an answer is decoded, and encoded again as the reward model was trained to read it, with its
own tokenizer and template. What cannot fit is refused by `check_reward`, before any weights are read. The texts leave
the machine only for a server that is not on it; `load_reward` says so.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from carellama.config.data import DataOptions
from carellama.config.model import ModelOptions, TrainedModelOptions
from carellama.config.options import split_commas
from carellama.config.run import RunOptions
from carellama.data.encoding.collate import collate_padded, collate_row
from carellama.errors import UserError
from carellama.model import packed_attention as attention
from carellama.model.adapter_files import whole_modules
from carellama.model.adapter_plan import plan_adapters, read_adapter_config
from carellama.model.adapters import apply_adapters
from carellama.model.load import SCORE_HEAD, adapter_kind, full_checkpoint, load_config, load_model, model_class
from carellama.model.lora import AnyModel
from carellama.model.tokenizer import load_tokenizer, match_tokenizer, tokenizer_checkpoint
from carellama.model.zoo.pull import with_named_weights
from carellama.records import IGNORED, JSONObject, Message, Tokens
from carellama.run_record import check_foundation, read_run
from carellama.templates.template import Group, Template, get_template
from carellama.templates.tokenize import GroupEncoder
from carellama.train.reward.server import ServerReward, check_finite_scores, is_url
from carellama.train.reward_model import score_records

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

ScoreFn = Callable[[Sequence[tuple[Message, ...]], Sequence[str]], list[float]]


def check_reward(name: str, options: RunOptions, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `UserError` for a reward that cannot score this policy's answers; no weights are read.

    An adapter must have a score head, and the policy's vocabulary (token by token, by its own tokenizer); another
    model needs one label and a tokenizer of its own that it has room for; a server must answer.
    """
    if is_url(name):
        ServerReward(name, options.reward.reward_timeout)([(Message("user", "Hello?"),)], ["Hello."])
        return
    chain = adapter_chain(name)
    if chain:
        for folder in chain:
            read_adapter_config(folder)
        check_foundation(dataclasses.replace(options.model, checkpoint_dir=",".join(map(str, chain))))
        _check_adapter(chain[-1], options.model, tokenizer)
        return
    arguments = own_model_options(name, options.model)
    try:
        other, own = load_config(arguments), load_tokenizer(arguments)
    except UserError as error:
        reason = str(error).replace("--model_name_or_path", "--reward_model").rstrip(".")
        made = "" if Path(name).exists() else "; --stage rm makes one: carellama train examples/rm.yaml, for example"
        raise UserError(f"--reward_model {name}: {reason}{made}") from error
    if not any("SequenceClassification" in kind for kind in other.architectures or ()) or other.num_labels != 1:
        kind = ", ".join(other.architectures or ("no architecture",))
        raise UserError(
            f"--reward_model {name} gives no score: it is {kind} with {other.num_labels} labels; "
            "take a sequence classification model with one label, as --stage rm makes"
        )
    rows, highest = other.get_text_config().vocab_size, max(own.get_vocab().values())
    if highest >= rows:
        raise UserError(
            f"--reward_model {name} has {rows:,} rows of vocabulary and a tokenizer with token {highest:,}: "
            "they do not belong together"
        )


class ModelReward:
    """Scores by a sequence classification model, in rows without padding where its attention takes them."""

    def __init__(
        self,
        model: AnyModel,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        batch_size: int,
    ) -> None:
        self.model, self.template, self.batch_size = model.eval().requires_grad_(False), template, batch_size
        self.encoder = GroupEncoder(tokenizer)
        self.room = int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30)
        self.said_cut = False
        packs = attention.takes_packed_rows(model.config._attn_implementation)
        self.collate = collate_row if packs else partial(collate_padded, pad_token_id=tokenizer.pad_token_id)

    def __call__(self, prompts: Sequence[tuple[Message, ...]], answers: Sequence[str]) -> list[float]:
        """Return the score of each answer to its prompt."""
        encoded = self._encode(prompts, answers)
        found: list[float] = []
        device, dtype = next(self.model.parameters()).device, self.model.dtype
        for start in range(0, len(encoded), self.batch_size):
            batch = self.collate([[tokens] for tokens in encoded[start : start + self.batch_size]])
            batch = {key: one.to(device) if isinstance(one, torch.Tensor) else one for key, one in batch.items()}
            with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                found += score_records(self.model, batch).tolist()
        return check_finite_scores(found, "the reward model")

    def _encode(self, prompts: Sequence[tuple[Message, ...]], answers: Sequence[str]) -> list[Tokens]:
        """The ids that the reward model reads; what is too long for it loses its beginning."""
        groups = [
            _render_literal(self.template, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)
        ]
        joined = [np.concatenate(ids) for ids in self.encoder.encode(groups)]
        long = sum(len(ids) > self.room for ids in joined)
        if long and not self.said_cut:
            self.said_cut = True
            log.warning(
                "%d conversations are longer than the %d tokens of the reward model: it reads their end",
                long,
                self.room,
            )
        return [Tokens(ids[-self.room :], np.full(len(ids[-self.room :]), IGNORED, np.int32)) for ids in joined]


def load_reward(
    name: str, options: RunOptions, tokenizer: PreTrainedTokenizerBase, policy: AnyModel | None = None
) -> ScoreFn:
    """Return what scores answers, after `check_reward`. `policy`: the model whose base an adapter may share."""
    if is_url(name):
        server = ServerReward(name, options.reward.reward_timeout)
        if server.is_remote:
            log.warning("the prompts and answers of this training are sent to %s to be scored", server.url.host)
        return server
    batch_size = options.training.per_device_eval_batch_size
    chain = adapter_chain(name)
    if not chain:
        arguments = own_model_options(name, options.model)
        own = load_tokenizer(arguments)
        own_base = _load_reward_base(arguments, options)
        match_tokenizer(own_base, own)
        torch.nn.Module.to(own_base, options.training.device)
        return ModelReward(own_base, own, _trained_template(Path(name), options, own), batch_size)
    arguments = dataclasses.replace(options.model, checkpoint_dir=",".join(map(str, chain)))
    own = load_tokenizer(arguments)
    # an adapter with tokens of its own, or a whole embedding, needs a base of its own: it would change the policy's
    shares = own.get_vocab() == tokenizer.get_vocab() and not whole_modules(
        chain[-1], allow_pickle=arguments.allow_pickle
    )
    tokenizer = tokenizer if shares else own
    model = _reward_on_policy_base(policy, chain, options) if policy is not None and shares else None
    if model is None:
        log.info("the reward model has a base of its own: another copy of the weights is loaded")
        own_base = _load_reward_base(arguments, options)
        match_tokenizer(own_base, own, extended=tokenizer_checkpoint(arguments) is not None)
        model = apply_adapters(own_base, plan_adapters(arguments))
    if not options.model.quantization_bit:
        torch.nn.Module.to(model, options.training.device)
    model.config.pad_token_id = tokenizer.pad_token_id
    return ModelReward(model, tokenizer, _trained_template(chain[-1], options, tokenizer), batch_size)


def _load_reward_base(arguments: ModelOptions, options: RunOptions) -> PreTrainedModel:
    kernel = attention.choose(options.model.attention, model_class(arguments, "reward"))
    return load_model(arguments, dtype=options.frozen_dtype, attention=kernel, kind="reward")


def load_scorer(name: str, model: ModelOptions) -> ScoreFn:
    """Return what scores answers where nothing is trained: `carellama api --reward_model`.

    `model` names the base that an adapter of --stage rm was trained on, and how it is loaded.
    """
    from carellama.train.arguments import build_arguments
    from carellama.train.options import parse_run

    model, _ = with_named_weights(dataclasses.replace(model, checkpoint_dir=None), DataOptions())
    groups = parse_run(["--model_name_or_path", model.model_name_or_path], "carellama api").groups
    base = TrainedModelOptions(**vars(dataclasses.replace(model, checkpoint_dir=None)))
    options = RunOptions.of([base, *groups[1:]], build_arguments(groups[-1], {}), {})
    tokenizer = load_tokenizer(options.model)
    check_reward(name, options, tokenizer)
    return load_reward(name, options, tokenizer)


def adapter_chain(name: str) -> list[Path]:
    """The adapter folders of a name, in order; none: it is a model.

    A single adapter that was trained on top of others, by its run.json, brings them along.
    """
    parts = [Path(part).expanduser() for part in split_commas(name)]
    if not parts or not (parts[-1] / "adapter_config.json").is_file():
        return []
    return [*earlier_checkpoints(parts[0]), *parts] if len(parts) == 1 else parts


def earlier_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that the adapter of --stage rm in a folder was trained on top of."""
    named = _settings(folder).get("model", {}).get("checkpoint_dir")
    earlier = [Path(part).expanduser() for part in split_commas(named)]
    last = earlier[-1] if earlier and (earlier[-1] / "adapter_config.json").is_file() else None
    if last and adapter_kind(last) == "reward":
        earlier.pop()  # it was trained further, and lies in this folder
    if begun := ((read_run(folder) or {}).get("used") or {}).get("foundation"):
        earlier = [Path(one["name"]).expanduser() for one in begun[1:]]
    for one in earlier:
        if not one.is_dir():
            raise UserError(
                f"--reward_model {folder} was trained on top of {named}, and {one} is not there: give all of them "
                "as a,b,c, the reward model last"
            )
    return earlier


def _settings(folder: Path) -> JSONObject:
    """The options of the run that made a folder; none where it has no run.json."""
    if (record := read_run(folder)) is None:
        return {}
    settings: object = record.get("settings")
    if not isinstance(settings, dict):
        raise UserError(f"cannot read how --reward_model {folder} was trained: its run.json has no settings")
    return settings


def own_model_options(name: str, model: ModelOptions) -> ModelOptions:
    """How a model that brings its own tokenizer is loaded: with the policy's rights and nothing else of it."""
    return dataclasses.replace(
        model, model_name_or_path=name, checkpoint_dir=None, model_revision="main", quantization_bit=None,
        rope_scaling=None,
    )  # fmt: skip


def _check_adapter(folder: Path, model: ModelOptions, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse an adapter without a score, and one that was trained with other tokens."""
    from safetensors import SafetensorError, safe_open
    from transformers import AutoTokenizer

    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise UserError(f"--reward_model {folder} has an adapter_config.json but no adapter_model.safetensors")
    try:
        with safe_open(str(weights), "pt") as file:
            keys: list[str] = file.keys()
    except SafetensorError as error:
        raise UserError(f"--reward_model: {weights} is damaged or cut short ({error})") from error
    scored = any(f".{SCORE_HEAD}." in key for key in keys)
    if not scored:
        raise UserError(f"--reward_model {folder} has no score head: it is not an adapter of --stage rm")
    if not (folder / "tokenizer_config.json").is_file():
        return
    try:
        theirs = AutoTokenizer.from_pretrained(str(folder)).get_vocab()
    except (OSError, ValueError) as error:
        raise UserError(f"--reward_model {folder}: its tokenizer cannot be read") from error
    ours = tokenizer.get_vocab()
    different = sum(theirs.get(token) != number for token, number in ours.items()) + len(theirs.keys() - ours.keys())
    if different:
        raise UserError(
            f"--reward_model {folder} was trained with another vocabulary: {different:,} of its {len(theirs):,} tokens "
            f"are not those of {model.model_name_or_path} ({len(ours):,}); train it on this base, or give a whole "
            "model, which brings its own tokenizer"
        )


def _trained_template(folder: Path, options: RunOptions, tokenizer: PreTrainedTokenizerBase) -> Template:
    """The chat format that a reward model was trained with: by its run.json, else its tokenizer's own, else ours."""
    own = None if tokenizer.chat_template else options.data.template
    return get_template(_settings(folder).get("data", {"template": own}).get("template"), tokenizer)


def _reward_on_policy_base(policy: AnyModel, chain: list[Path], options: RunOptions) -> AnyModel | None:
    """The reward model over the very weights of the policy's base; None: its base is another one.

    A second tree of modules is made that holds the same parameters, without the policy's adapter, and the reward's
    adapter is put on it: neither knows of the other, and nothing of the base is there twice.
    """
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    if not isinstance(policy, PeftModel) or full_checkpoint(options.model):
        return None
    plan = plan_adapters(replace(options.model, checkpoint_dir=",".join(map(str, chain))))
    merged = plan_adapters(options.model, options.finetuning if options.training.do_train else None).merged
    if [one.resolve() for one in merged] != [one.resolve() for one in plan.merged]:
        return None  # what was merged into the policy's base is not what this adapter was trained on top of
    copied: Any = copy.deepcopy(policy, {id(one): one for one in policy.parameters()})
    base = copied.unload()
    settings = copy.deepcopy(base.config)
    settings.num_labels, settings.problem_type = 1, "regression"
    with torch.device("meta"):
        model: Any = AutoModelForSequenceClassification.from_config(settings)
    body = getattr(model, model.base_model_prefix, None)
    if type(body) is not type(base.base_model) or not hasattr(model, SCORE_HEAD):
        return None
    setattr(model, model.base_model_prefix, base.base_model)
    device = next(base.parameters()).device
    setattr(model, SCORE_HEAD, torch.nn.Linear(model.score.in_features, 1, bias=False, device=device, dtype=base.dtype))
    return apply_adapters(model, replace(plan, merged=()))  # they are in the base


def _render_literal(template: Template, prompt: tuple[Message, ...], answer: str) -> list[Group]:
    """The groups of a conversation, whatever the answer holds: it goes where the template puts an answer."""
    groups = template.groups((*prompt, Message("assistant", "x")))
    last = groups[-1]
    return [*groups[:-1], replace(last, parts=(last.parts[0], answer, *last.parts[2:]))]
