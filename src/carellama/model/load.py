"""Base model, from any of the places that `carellama.model.zoo.resolve` finds.

    model = ModelOptions(model_name_or_path="smollm2-135m", quantization_bit=4)
    network = load_model(model, dtype="bfloat16", attention=None)
    match_tokenizer(network, load_tokenizer(model))    # of carellama.model.tokenizer

The weights come from safetensors unless pickles are allowed; code of the model's runs only if it is trusted.
The model stays on the CPU (a quantised one goes to the current GPU, if any); training and engines move it.
Adapters are put on by `carellama.model.adapters`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from carellama.adapter_json import read_adapter_json
from carellama.config.environment import check_hub, few_kernels
from carellama.config.model import ModelOptions
from carellama.errors import UserError, need
from carellama.hardware import fastest_dtype
from carellama.model.load_errors import as_user_error
from carellama.model.paths import check_checkpoints
from carellama.model.quiet import quiet_loading
from carellama.model.sharded import is_sharded, read_shards
from carellama.model.vocabulary import state_own_head
from carellama.model.zoo.entries import find_entry
from carellama.model.zoo.fetch import check_whole
from carellama.model.zoo.resolve import model_folder
from carellama.stages import ModelKind
from carellama.weights import ADAPTER, adapter_as_model

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

log = logging.getLogger(__name__)

PICKLES = ("*.bin", "*.pt", "*.pth")
SCORE_HEAD = "score"  # transformers' name of the head of a sequence classification model


def adapter_kind(folder: Path) -> ModelKind:
    """Return whether an adapter is that of a language model or of a reward model."""
    return "reward" if read_adapter_json(folder).get("task_type") == "SEQ_CLS" else "causal"


def load_config(model: ModelOptions) -> PreTrainedConfig:
    """Return the model's configuration, its positions stretched as `--rope_scaling` says."""
    from transformers import AutoConfig

    place = model_source(model)
    with as_user_error(given_name(model), "configuration"):
        config: PreTrainedConfig = AutoConfig.from_pretrained(place, **hub_kwargs(model))
    full = full_checkpoint(model)
    if full:  # its own counts: a training may have stretched its positions, or added tokens
        with as_user_error(full, "configuration"):
            trained: PreTrainedConfig = AutoConfig.from_pretrained(full, trust_remote_code=model.trust_remote_code)
            _check_same_architecture(config, given_name(model), trained, full)
        config = trained
    if model.rope_scaling:
        _apply_rope_scaling(config, model.rope_scaling, model.rope_factor)
    return config


def stored_dtype(model: ModelOptions) -> str:
    """Return the precision that the base is stored in; none stated: float32."""
    return str(load_config(model).dtype or "float32").removeprefix("torch.")


def model_class(model: ModelOptions, kind: ModelKind = "causal") -> type[PreTrainedModel] | None:
    """Return transformers' class for the model, or None where the model brings its own code."""
    config = load_config(model)
    if model.trust_remote_code and auto_class(kind).__name__ in (getattr(config, "auto_map", None) or {}):
        return None
    try:
        found = cast("Mapping[type, Any]", auto_class(kind)._model_mapping)[type(config)]
    except KeyError:
        return None
    return cast("type[PreTrainedModel]", found[0] if isinstance(found, (tuple, list)) else found)


def auto_class(kind: ModelKind) -> type[_BaseAutoModelClass]:
    """Return transformers' automatic class for models of this kind."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForSequenceClassification if kind == "reward" else AutoModelForCausalLM


def load_model(
    model: ModelOptions, *, dtype: str, attention: str | None, kind: ModelKind = "causal"
) -> PreTrainedModel:
    """Return the language model, for evaluation (`eval()`); kind `reward`: with one score in place of its head.

    The score of a base that has none yet starts at random.

    dtype: float32, bfloat16, float16, or auto for the best of this machine. attention: transformers' name of
    an attention function, or None for its default. A checkpoint of full or freeze training gives the weights
    in place of the base's. Raises `UserError` for a model that is not there, not readable, not complete, or
    not a causal language model.
    """
    import torch

    few_kernels()
    config = load_config(model)
    if kind == "reward":
        config.num_labels, config.problem_type = 1, "regression"
    place = full_checkpoint(model) or model_source(model)
    shown = full_checkpoint(model) or given_name(model)
    options = hub_kwargs(model)
    options["dtype"] = getattr(torch, fastest_dtype() if dtype == "auto" else dtype)
    family: Any = auto_class(kind)
    source: Path | str | None = place
    if isinstance(place, Path) and is_sharded(place):
        family, source, options["state_dict"] = model_class(model, kind) or family, None, read_shards(place)
    elif isinstance(place, Path):
        _check_weights_of(shown, place, allow_pickle=model.allow_pickle)
    if attention is not None:
        options["attn_implementation"] = attention
    if model.quantization_bit:
        options["quantization_config"] = _quantization(model, options["dtype"])
    with as_user_error(shown, "model"), quiet_loading(place):
        network: PreTrainedModel
        network, info = family.from_pretrained(
            source,
            config=config,
            use_safetensors=None if model.allow_pickle else True,
            ignore_mismatched_sizes=True,  # they are in `info`, and refused below
            output_loading_info=True,
            **options,
        )
    if getattr(network, "_hf_peft_config_loaded", False):  # of a hub's repository, with the base that it names
        raise adapter_as_model(shown)
    if kind == "reward":
        info["missing_keys"] = [key for key in info["missing_keys"] if key != f"{SCORE_HEAD}.weight"]
    _check_all_weights_loaded(info, shown)
    if state_own_head(network):
        log.warning(
            "%s: config.json says that embedding and head are one weight (tie_word_embeddings), and the files have two "
            "that differ: the head of its own is used", shown,
        )  # fmt: skip
    network.name_or_path = network.config.name_or_path = public_name(model)  # peft writes it into each adapter
    network.eval()
    return network


def full_checkpoint(model: ModelOptions) -> Path | None:
    """The checkpoint that holds whole weights (of full or freeze training), if the first one does."""
    check_checkpoints(model.checkpoints)
    for index, name in enumerate(model.checkpoints):
        if index and not (Path(name).expanduser() / ADAPTER).is_file():
            raise UserError(
                f"--checkpoint_dir {name} holds a whole model, which would undo the checkpoints before it: "
                "give it first"
            )
    first = Path(model.checkpoints[0]).expanduser() if model.checkpoints else None
    return first if first and not (first / ADAPTER).is_file() else None


def checkpoint_kind(model: ModelOptions) -> ModelKind:
    """Whether the last checkpoint (or the base, where there is none) is a language model or a reward model."""
    place: Path | str = Path(model.checkpoints[-1]).expanduser() if model.checkpoints else model_source(model)
    if isinstance(place, Path) and (place / ADAPTER).is_file():
        return adapter_kind(place)
    if model.checkpoints:
        full_checkpoint(model)  # which says what is wrong with the folder
        from transformers import AutoConfig

        names = AutoConfig.from_pretrained(place).architectures
    else:
        names = load_config(model).architectures
    return "reward" if any(name.endswith("ForSequenceClassification") for name in names or ()) else "causal"


def public_name(model: ModelOptions) -> str:
    """Return the name of the weights for other programs: a folder, an id of the hub; never a cached copy."""
    place = full_checkpoint(model) or given_name(model)
    entry = find_entry(place) if isinstance(place, str) else None
    return entry.hub if entry else str(place)


def given_name(model: ModelOptions) -> Path | str:
    """Return the base as it was given, for messages: a path, or the name of an embedded model or of the hub."""
    path = Path(model.model_name_or_path).expanduser()
    return path if path.exists() else model.model_name_or_path


def model_source(model: ModelOptions) -> Path | str:
    """The model's folder, or the id of a hub model whose config.json could be fetched."""
    place = model_folder(model.model_name_or_path, accept_licence=model.accept_licence)
    if isinstance(place, str):
        _check_hub_access(place, model.model_revision, model.cache_dir, model.hf_auth_token)
    return place


@lru_cache
def _check_hub_access(name: str, revision: str, cache_dir: str | None, token: str | None) -> None:
    """Ask once whether the hub has the model: transformers would ask for file after file, each in vain."""
    from huggingface_hub import hf_hub_download, is_offline_mode
    from huggingface_hub.utils import logging as chatter

    if not is_offline_mode():
        check_hub(token)
    level = chatter.get_verbosity()
    chatter.set_verbosity_error()  # of its retries; the last error is reported
    try:
        with as_user_error(name, "configuration"):
            hf_hub_download(name, "config.json", revision=revision, cache_dir=cache_dir, token=token)
    finally:
        chatter.set_verbosity(level)


def hub_kwargs(model: ModelOptions) -> dict[str, Any]:
    """How the hub is asked, and whether the model's own code may run."""
    return {
        "revision": model.model_revision,
        "cache_dir": model.cache_dir,
        "token": model.hf_auth_token,
        "trust_remote_code": model.trust_remote_code,
    }


def _quantization(model: ModelOptions, dtype: torch.dtype) -> BitsAndBytesConfig:
    """4 bit as in QLoRA (Dettmers et al., arXiv 2305.14314, section 3), or LLM.int8 (arXiv 2208.07339)."""
    from transformers import BitsAndBytesConfig

    need("bitsandbytes", extra="quantize", why="--quantization_bit")
    if model.quantization_bit == 8:
        # It says for each layer and step that it computes in float16, as the paper does.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=model.quantization_type,
        bnb_4bit_use_double_quant=model.double_quantization,
        bnb_4bit_compute_dtype=dtype,
    )


def _apply_rope_scaling(config: PreTrainedConfig, kind: str, factor: float) -> None:
    """Set `--rope_scaling` in `config.rope_parameters`, which transformers 5 keeps flat or by layer type.

    Of layer types (Gemma 3) only full attention is stretched: the others look at a near window anyway.
    """
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        raise UserError(f"--rope_scaling: a {config.model_type} model has no rotary positions to stretch")
    target = parameters.get("full_attention", parameters)
    if (target.get("rope_type"), target.get("factor")) == (kind, factor):
        return  # by the training of a whole checkpoint, which is named with the same options
    if target.get("rope_type", "default") != "default":
        raise UserError(
            f"--rope_scaling {kind}: this model's positions are stretched already ({target['rope_type']}); "
            "leave the option out"
        )
    length = config.max_position_embeddings
    target |= {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        target["original_max_position_embeddings"] = length
    if kind != "dynamic":  # which grows from this number by itself
        config.max_position_embeddings = int(length * factor)


def _check_same_architecture(base: PreTrainedConfig, place: Path | str, full: PreTrainedConfig, folder: Path) -> None:
    """Refuse a whole checkpoint of another model than the base."""
    sizes = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    for size in (*sizes, "num_key_value_heads"):
        one, other = getattr(base, size, None), getattr(full, size, None)
        if one != other:
            raise UserError(
                f"the checkpoint {folder} does not belong to the base {place}: {size} is {other}, not {one}"
            )


def _check_weights_of(given: Path | str, folder: Path, *, allow_pickle: bool) -> None:
    """`check_weights` of a folder that may be the kept copy of a model that was given by name."""
    try:
        check_weights(folder, allow_pickle=allow_pickle)
    except UserError as error:
        if str(given) in str(error):
            raise
        raise UserError(f"cannot load the model of {given}: {error}") from error


def check_weights(folder: Path, *, allow_pickle: bool) -> None:
    """Refuse a folder without weights, with a part of them only, and pickled weights unless they are allowed."""
    if any(folder.glob("*.safetensors")):
        check_whole(folder)
        return
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if not pickles:
        raise UserError(f"{folder} has a config.json but no weights (*.safetensors)")
    if not allow_pickle:
        raise UserError(
            f"{folder} has only pickled weights ({pickles[0]}), which can run code when read; "
            "if you trust where they come from add --allow_pickle true"
        )


def _check_all_weights_loaded(info: Mapping[str, Collection[object]], place: Path | str) -> None:
    """Refuse a model whose weights are not all there, or not of the sizes in its config.json."""
    for key, problem in (("missing_keys", "lacks"), ("mismatched_keys", "has in other sizes")):
        if info[key]:
            first = sorted(str(item[0] if isinstance(item, tuple) else item) for item in info[key])[0]
            raise UserError(
                f"{place} {problem} {len(info[key])} of the weights that its config.json asks for "
                f"(the first: {first}): it is incomplete, or of another architecture"
            )
    if info["unexpected_keys"]:
        first = sorted(map(str, info["unexpected_keys"]))[0]
        log.warning("%s: %d weights have no use here (%s)", place, len(info["unexpected_keys"]), first)
