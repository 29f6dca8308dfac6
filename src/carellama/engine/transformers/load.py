"""A transformers model with its checkpoints, adapters and template, made into an engine.

engine = load(ModelOptions("smollm2-135m"), PromptOptions())
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from carellama.engine.base import MOST_CONTEXT
from carellama.engine.transformers.engine import DEFAULT_BATCH_SIZE, TransformersEngine
from carellama.errors import UserError
from carellama.hardware import has_gpu
from carellama.templates.template import get_template

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTuner

    from carellama.config.data import PromptOptions
    from carellama.config.engine import EngineOptions
    from carellama.config.model import ModelOptions

BESIDE = "beside_"  # before the name of an adapter in peft, where checkpoints have names of their own


def load(
    model: ModelOptions,
    data: PromptOptions,
    arguments: EngineOptions | None = None,
    *,
    batch_size: int | None = None,
) -> TransformersEngine:
    """Load a model with its checkpoints, adapters and template. Raises `UserError` for what cannot be loaded.

    An adapter of `--adapters` answers on top of the checkpoints of `--checkpoint_dir`.
    """
    from carellama.model.adapter_plan import beyond_lora_reason, plan_adapters, read_adapter_config
    from carellama.model.adapters import apply_adapters, load_adapter
    from carellama.model.load import load_model
    from carellama.model.tokenizer import check_base_tokens, load_tokenizer, match_tokenizer, tokenizer_checkpoint

    tokenizer = load_tokenizer(model)
    template = get_template(data.template, tokenizer)  # a wrong one shows before the weights are read
    network = load_model(model, dtype=model.dtype, attention=None)
    match_tokenizer(network, tokenizer, extended=tokenizer_checkpoint(model) is not None)
    prepared: Any = apply_adapters(network, plan_adapters(model))
    as_loaded = list(prepared.active_adapters) if hasattr(prepared, "peft_config") else []
    names = list(arguments.adapter_folders) if arguments else []
    for name in names:
        assert arguments is not None
        folder = Path(arguments.adapter_folders[name]).expanduser()
        if reason := beyond_lora_reason(read_adapter_config(folder)):
            raise UserError(f"--adapters {name}={folder} {reason}: give it as --checkpoint_dir")
        check_base_tokens(model, folder)
        prepared = load_adapter(prepared, folder, f"{BESIDE}{name}", allow_pickle=model.allow_pickle)
    if has_gpu() and not model.quantization_bit:  # bitsandbytes has put a quantised model there already
        prepared = prepared.to("cuda")
    context = None
    if arguments is not None:
        context = arguments.context_tokens or (None if has_gpu() else MOST_CONTEXT)
    return TransformersEngine(
        prepared,
        tokenizer,
        template,
        batch_size or (arguments.parallel if arguments else DEFAULT_BATCH_SIZE),
        adapters=names,
        switch=_Switch(prepared, as_loaded) if names else lambda adapter: None,
        context_tokens=context,
    )


class _Switch:
    """Lets one of several adapters of a peft model answer."""

    def __init__(self, model: PeftModel, as_loaded: list[str]) -> None:
        self.tuner, self.as_loaded = cast("BaseTuner", model.base_model), as_loaded
        self.answers: str | None = None
        self("")

    def __call__(self, adapter: str) -> None:
        if adapter == self.answers:
            return
        active = [*self.as_loaded, f"{BESIDE}{adapter}"] if adapter else self.as_loaded
        if active:
            self.tuner.enable_adapter_layers()
            self.tuner.set_adapter(active)
        else:
            self.tuner.disable_adapter_layers()
        self.answers = adapter
