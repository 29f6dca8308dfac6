"""New adapters: which kind, in which layers, from which start.

    model = new_adapter(load_model(...), FinetuningOptions(peft_type="vera"), tokens=())

LoRA: Hu et al. (arXiv 2106.09685); rsLoRA: Kalajdzievski (2312.03732); DoRA: Liu et al. (2402.09353); PiSSA: Meng et
al. (2404.02948); VeRA: Kopiczko et al. (2310.11454); LoHa: Hyeon-Woo et al. (2108.06098); LoKr: Yeh et al.
(2309.14859); OFT: Qiu et al. (2306.07280); HRA: Yuan et al. (2405.17484); (IA)3: Liu et al. (2205.05638).

PiSSA takes the strongest directions of a weight W out of it, W = W' + s B0 A0, and trains them. What is saved is an
ordinary LoRA adapter of the base as it was (`convert_pissa_to_lora`): s BA - s B0 A0 = s [B | -B0] [A ; A0], of twice
the rank.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from carellama.config.finetuning import FinetuningOptions
from carellama.errors import UserError, nearest
from carellama.model.load import SCORE_HEAD
from carellama.stages import STAGES

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel
    from peft.tuners.tuners_utils import BaseTuner
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

AnyModel: TypeAlias = "PreTrainedModel | PeftModel"

TRAINED_ADAPTER = "default"  # peft's name of the adapter that it saves at the top of a folder
PEFT_TYPES = ("LORA", "VERA", "LOHA", "LOKR", "OFT", "HRA", "IA3")  # peft's names of what can be put on a model here
DEFAULT_TARGETS = ("q_proj", "v_proj")  # of Llama and its kin
# parts of a model for pictures and sound, which a text never goes through
EXCLUDED_TARGETS = r".*\b(vision\w*|visual|audio\w*|multi_modal_projector|embed_vision|embed_audio)\b.*"
PISSA_RAW = "pissa.safetensors"  # in a checkpoint: the matrices as they are trained, to go on from


def base_of(model: torch.nn.Module) -> PreTrainedModel:
    """Return the model under its adapters."""
    base: Any = model
    return cast("PreTrainedModel", base.get_base_model() if hasattr(base, "get_base_model") else base)


def new_adapter(model: AnyModel, finetuning: FinetuningOptions, tokens: Sequence[int] = ()) -> PeftModel:
    """Put a fresh adapter on the model, beside those that a quantised base has.

    Rows of the embedding and of the head for the ids `tokens` are trained with it. Raises `UserError` for layers
    that are not there, and for what the kind of adapter cannot do.
    """
    from peft import PeftModel, get_peft_model

    config = _config(base_of(model), finetuning, tokens)
    with quiet_peft():
        if not isinstance(model, PeftModel):
            made = cast("PeftModel", get_peft_model(model, config, adapter_name=TRAINED_ADAPTER))
            if finetuning.pissa_init:
                start = {name: weight.clone() for name, weight in adapter_weights(made).items()}
                made.pissa_start = start  # type: ignore[assignment]  # no module, but a note
            return made
        earlier = list(model.peft_config)
        model.add_adapter(TRAINED_ADAPTER, config)
    return set_active_adapters(model, [*earlier, TRAINED_ADAPTER], trained=True)


def _config(base: PreTrainedModel, finetuning: FinetuningOptions, tokens: Sequence[int]) -> PeftConfig:
    """The configuration of peft that the options ask for."""
    import peft

    kind, rank, dropout = finetuning.peft_type, finetuning.lora_rank, finetuning.lora_dropout
    alpha = cast("int", finetuning.lora_alpha)  # peft calls it an int and takes any number
    scores = STAGES[finetuning.stage].model_kind == "reward"
    common: dict[str, Any] = {
        "task_type": peft.TaskType.SEQ_CLS if scores else peft.TaskType.CAUSAL_LM,
        "target_modules": resolve_targets(base, finetuning),
    }
    if any(re.fullmatch(EXCLUDED_TARGETS, name) for name, _ in base.named_modules()):
        common["exclude_modules"] = EXCLUDED_TARGETS
    if kind == "vera":
        common.pop("exclude_modules", None)  # which peft's own has not
        return peft.VeraConfig(**common, r=rank, vera_dropout=dropout)
    if kind == "loha":
        return peft.LoHaConfig(**common, r=rank, alpha=alpha, rank_dropout=dropout)
    if kind == "lokr":
        return peft.LoKrConfig(**common, r=rank, alpha=alpha, rank_dropout=dropout)
    if kind == "oft":
        return peft.OFTConfig(**common, r=0, oft_block_size=finetuning.oft_block_size, module_dropout=dropout)
    if kind == "hra":
        return peft.HRAConfig(**common, r=rank)
    if kind == "ia3":
        return peft.IA3Config(**common, feedforward_modules=_ia3_feedforward(base, common["target_modules"]))
    start: Any = True  # peft's names
    if finetuning.pissa_init:
        start = "pissa" if finetuning.pissa_iter < 0 else f"pissa_niter_{finetuning.pissa_iter}"
    return peft.LoraConfig(
        **common,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        use_rslora=finetuning.use_rslora,
        use_dora=finetuning.use_dora,
        init_lora_weights=start,
        trainable_token_indices=_trainable_token_indices(base, tokens) if tokens else None,
    )


def linear_layers(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers that an adapter can adapt, like q_proj; the output head is not one of them."""
    head = model.get_output_embeddings()
    names = {
        name.removesuffix(".base_layer").rpartition(".")[2]
        for name, module in model.named_modules()
        if in_out_features(module) and module is not head and ".lora_" not in name
    } - {SCORE_HEAD}
    return sorted(names)


def in_out_features(module: torch.nn.Module) -> tuple[int, int] | None:
    """(values taken, values given) of a linear layer, GPT-2's included; None for other modules."""
    import torch
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    return (module.in_features, module.out_features) if isinstance(module, torch.nn.Linear) else None


def resolve_targets(model: PreTrainedModel, finetuning: FinetuningOptions) -> list[str]:
    """Resolve `--lora_target`; without it a line says which layers are taken."""
    known = linear_layers(model)
    if finetuning.lora_target is None:
        return _default_targets(model, known, finetuning.peft_type)
    names = [part.strip() for part in finetuning.lora_target.split(",") if part.strip()]
    if names == ["all"]:
        return known
    for name in names:
        if name not in known:
            raise UserError(
                f"--lora_target {name}: this model has no such linear layer.{nearest(name, known)} "
                f"It has {', '.join(known)}; 'all' takes them all."
            )
    if not names:
        raise UserError(f"--lora_target is empty: name some of {', '.join(known)}, or 'all'")
    return names


def _default_targets(model: PreTrainedModel, known: list[str], kind: str) -> list[str]:
    """The layers of 2023 where the model has them, else those of peft's table, else all."""
    from peft import utils

    table = getattr(utils, f"TRANSFORMERS_MODELS_TO_{'IA3' if kind == 'ia3' else 'LORA'}_TARGET_MODULES_MAPPING")
    model_type = model.config.get_text_config().model_type
    listed = table.get(model_type) or table.get(model_type.removesuffix("_text")) or []
    named = [name for name in listed if name in known]
    if kind != "ia3" and set(DEFAULT_TARGETS) <= set(known):
        found, why = list(DEFAULT_TARGETS), "as the model has them"
    elif named:
        found, why = named, f"peft's for {model_type}"
    else:
        found, why = known, f"all linear layers: peft names none for {model_type}"
    log.info("--lora_target %s (%s)", ",".join(found), why)
    return found


def _ia3_feedforward(model: PreTrainedModel, names: list[str]) -> list[str]:
    """Which of the layers (IA)3 scales before rather than after: those that narrow again what another has widened."""
    sizes = ((name.rpartition(".")[2], in_out_features(module)) for name, module in model.named_modules())
    features = {name: size for name, size in sizes if size}
    hidden = model.config.get_text_config().hidden_size
    narrowing = [name for name in names if features[name][0] > features[name][1] == hidden]
    from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as TABLE

    listed = TABLE.get(model.config.get_text_config().model_type)
    return narrowing if listed is None else [name for name in names if name in listed]


def _trainable_token_indices(model: PreTrainedModel, tokens: Sequence[int]) -> dict[str, list[int]]:
    """peft's `trainable_token_indices`: rows of the embedding, and of a head that has weights of its own."""
    import torch

    entry, head = model.get_input_embeddings(), model.get_output_embeddings()
    own_head = head is not None and head.weight is not entry.weight
    if own_head and (type(head) is not torch.nn.Linear or head.bias is not None):
        raise UserError("--add_tokens: the output head of this model has a bias; train it with --finetuning_type full")
    wanted = [entry, head] if own_head else [entry]
    return {name: list(tokens) for name, module in model.named_modules() if any(module is one for one in wanted)}


def set_active_adapters(model: PeftModel, names: list[str], *, trained: bool) -> PeftModel:
    """Let all adapters of these names answer together; the last is trained, if any."""
    tuner = cast("BaseTuner", model.base_model)
    tuner.set_adapter(names)
    kinds = (tuner.prefix, ".modules_to_save.", ".trainable_tokens_delta.")  # of weights that are trained
    for name, parameter in model.named_parameters():
        of_last = names[-1] in name.split(".") and any(kind in name for kind in kinds)
        parameter.requires_grad_(trained and of_last)
    return model


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Leave out the warnings of peft that nobody can act on: old names it uses, and what is checked here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        for message in ("Found missing adapter keys", "fan_in_fan_out is set to", ".*oft_block_size"):
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        # the estimate of the memory alone would say it; whether an adapter belongs to the base is seen by its layers
        warnings.filterwarnings("ignore", message=".*base_model_name_or_path` was renamed", category=UserWarning)
        warnings.filterwarnings("ignore", message="Using Rank-Stabilized LoRA with", category=UserWarning)
        yield


def adapter_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of the trained adapter under the names that they have in its file."""
    from peft import get_peft_model_state_dict

    found: dict[str, torch.Tensor] = get_peft_model_state_dict(
        model, adapter_name=TRAINED_ADAPTER, save_embedding_layers=False
    )
    return found


def convert_pissa_to_lora(folder: Path, start: dict[str, torch.Tensor], *, keep_raw: bool) -> None:
    """Rewrite a saved PiSSA adapter as a LoRA adapter of the base as it was.

    `start`: the matrices that it began from. With `keep_raw` those that are trained stay beside it, for a training
    that goes on.
    """
    import torch
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    raw = load_file(path)
    if keep_raw:
        save_file(raw, folder / PISSA_RAW)
    plain = {}
    for name, weight in raw.items():
        first = start[name].to(weight)
        if ".lora_A." in name:
            weight = torch.cat([weight, first], dim=0)
        elif ".lora_B." in name:
            weight = torch.cat([weight, -first], dim=1)
        plain[name] = weight.contiguous()
    save_file(plain, path, metadata={"format": "pt"})
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    settings["r"] *= 2
    settings["lora_alpha"] *= 2**0.5 if settings["use_rslora"] else 2  # so that the scale stays s
    settings["init_lora_weights"] = True
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
