"""Options of other programs and of older versions: read as today's, or answered with what to use instead.

    translate("warmup_ratio", ["0.1"], known, "carellama train")
    # Today("warmup_steps", ["0.1"], "--warmup_ratio is read as --warmup_steps 0.1")

A foreign name is either accepted as one of today's options, with a line that names it, or refused with what to use
instead. Loads no library.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from carellama.errors import UserError

TRUE, FALSE = ("true", "1", "yes", "y", "t"), ("false", "0", "no", "n", "f")


@dataclass(frozen=True)
class Foreign:
    """How an option of another program, or of an older version, is read.

    `option`: today's name; "" if there is none. `values`: old value -> today's value, or None where the value asks for
    what happens anyway; empty: every value is passed on. `instead`: what to do if the option or the value cannot be
    accepted. `share`: the value must be below 1. `unit` is added to a bare number.
    """

    option: str = ""
    values: Mapping[str, str | None] = field(default_factory=dict)
    instead: str = ""
    share: bool = False
    unit: str = ""


def _refused(instead: str, **values: str | None) -> Foreign:
    """An option that is refused, except `false`, or these values, which ask for what happens anyway."""
    return Foreign(values=values or {"false": None}, instead=instead)


SCALE = {"true": "true", "false": "false"}
NOT = {"true": "false", "false": "true"}
ONLY_TEXT = "CareLlama trains text models only"
OPTIM = "--optim has GaLore, APOLLO and the optimizers of 8 bit by name (--optim galore_adamw, apollo_adamw)"
REFERENCE = "the reference is the model that the training begins from, with its --checkpoint_dir merged"
PROCESSES = "start several processes with torchrun or accelerate launch"
VLLM = "pass it to vLLM with --vllm_args"
CARD = "the exported folder can be uploaded with `hf upload`"

# of transformers 4 (and 3), which version 5 has renamed or dropped
OF_TRANSFORMERS = {
    "warmup_ratio": Foreign("warmup_steps", share=True,
        instead="--warmup_steps takes a number of steps, or a share below 1"),
    "evaluation_strategy": Foreign("eval_strategy"),
    "evaluate_during_training": Foreign("eval_strategy", {"true": "steps", "false": None}),
    "no_cuda": Foreign("use_cpu", SCALE),
    "per_gpu_train_batch_size": Foreign("per_device_train_batch_size"),
    "per_gpu_eval_batch_size": Foreign("per_device_eval_batch_size"),
    "adafactor": Foreign("optim", {"true": "adafactor", "false": None}),
    "group_by_length": _refused("batches have no padding, so grouping by length saves nothing; leave it out"),
    "push_to_hub_model_id": Foreign("hub_model_id"),
    "push_to_hub_token": Foreign("hub_token"),
    "push_to_hub_organization": Foreign(instead="write it into --hub_model_id ORGANIZATION/NAME"),
    "torchdynamo": Foreign("torch_compile_backend"),
    "torch_dtype": Foreign("dtype"),
    "attn_implementation": Foreign("attention"),
    "use_auth_token": _refused("give --hf_auth_token TOKEN"),
    "logging_dir": Foreign(instead="TensorBoard's files are in --output_dir/runs; TENSORBOARD_LOGGING_DIR moves them"),
    "save_safetensors": _refused("weights are always saved as safetensors", true=None),
    "include_tokens_per_second": _refused("tokens per second are always logged", true=None, false=None),
    "low_cpu_mem_usage": _refused("", true=None, false=None),
    "use_mps_device": _refused("an Apple GPU is not supported; leave it out"),
    "use_ipex": _refused("transformers 5 has no support for IPEX; leave it out"),
    "jit_mode_eval": _refused("transformers 5 has no JIT evaluation; --torch_compile compiles the model"),
    "half_precision_backend": _refused("mixed precision is torch's own", auto=None, cuda_amp=None, cpu_amp=None),
    "fp16_backend": _refused("mixed precision is torch's own", auto=None, amp=None),
    "fp16_opt_level": _refused("mixed precision is torch's own; apex is not supported", O1=None),
    "sharded_ddp": Foreign(instead="use --fsdp, or DeepSpeed through accelerate launch"),
    "fsdp_min_num_params": Foreign(instead="set it in --fsdp_config"),
    "fsdp_transformer_layer_cls_to_wrap": Foreign(instead="set it in --fsdp_config"),
    "dispatch_batches": Foreign(instead="set it in --accelerator_config"),
    "split_batches": Foreign(instead="set it in --accelerator_config"),
    "tpu_num_cores": Foreign(instead="TPUs are not supported"),
    "past_index": _refused("models with a past of their own are not supported", **{"-1": None}),
    "include_inputs_for_metrics": _refused("the metrics of a stage are fixed; leave it out"),
}  # fmt: skip

# of LLaMA-Factory and its predecessors, TRL, FastChat
OF_OTHERS = {
    "adapter_name_or_path": Foreign("checkpoint_dir"),
    "default_system": Foreign("system_prompt"),
    "dev_ratio": Foreign("val_size", share=True, instead="--val_size takes a share below 1, or a number of records"),
    "prompt_template": Foreign("template"),
    "export_dir": Foreign("output_dir"),
    "export_size": Foreign("max_shard_size", unit="GB"),
    "export_device": _refused("the export runs on the CPU", cpu=None, auto=None),
    "export_legacy_format": _refused("weights are always saved as safetensors"),
    "export_hub_model_id": Foreign(instead=CARD),
    "flash_attn": Foreign("attention", {
        "auto": "auto", "disabled": "eager", "off": "eager", "sdpa": "sdpa", "fa2": "flash_attention_2",
        "true": "flash_attention_2", "false": "auto"}),
    "infer_backend": Foreign("engine", {"huggingface": "transformers", "hf": "transformers", "vllm": "vllm"},
        instead="--engine openai --endpoint URL speaks to SGLang and other servers"),
    "infer_dtype": Foreign("dtype"),
    "vllm_maxlen": Foreign("context_tokens"),
    "vllm_gpu_util": Foreign(instead=VLLM),
    "vllm_enforce_eager": _refused(VLLM),
    "vllm_max_lora_rank": Foreign(instead=VLLM),
    "vllm_config": Foreign(instead=VLLM),
    "hf_hub_token": Foreign("hf_auth_token"),
    "use_fast_tokenizer": _refused("only fast tokenizers are supported", true=None),
    "use_kv_cache": _refused("answers are always generated with a KV cache", true=None),
    "quantization_method": _refused("--quantization_bit quantises with bitsandbytes", bnb=None, bitsandbytes=None),
    "load_in_4bit": Foreign("quantization_bit", {"true": "4", "false": None}),
    "load_in_8bit": Foreign("quantization_bit", {"true": "8", "false": None}),
    "bits": Foreign("quantization_bit", {"4": "4", "8": "8", "16": None}),
    "bnb_4bit_quant_type": Foreign("quantization_type"),
    "neat_packing": Foreign("packing", SCALE),
    "block_size": Foreign("cutoff_len"),
    "max_seq_length": Foreign("cutoff_len"),
    "max_length": Foreign("cutoff_len"),
    "model_max_length": Foreign("cutoff_len"),
    "max_prompt_length": Foreign("max_source_length"),
    "max_completion_length": Foreign("max_new_tokens"),
    "lora_r": Foreign("lora_rank"),
    "lora_target_modules": Foreign("lora_target"),
    "use_peft": Foreign("finetuning_type", {"true": "lora", "false": "full"}),
    "create_new_adapter": Foreign("resume_lora_training", NOT),
    "freeze_trainable_layers": Foreign("num_layer_trainable"),
    "freeze_trainable_modules": Foreign("name_module_trainable"),
    "freeze_extra_modules": Foreign(instead="--name_module_trainable names mlp, self_attn or all"),
    "additional_target": Foreign(instead="--lora_target names the adapted layers, --add_tokens trains new tokens"),
    "resize_vocab": _refused("--add_tokens FILE grows the embedding by the tokens of a file"),
    "new_special_tokens": Foreign(instead="write them into a file for --add_tokens"),
    "pissa_convert": _refused("--pissa_init is always saved as LoRA", true=None),
    "loraplus_lr_embedding": Foreign(instead="--loraplus_lr_ratio sets the rate of the B matrices only"),
    "lora_bf16_mode": _refused("adapters are trained in float32"),
    "enable_liger_kernel": Foreign("use_liger_kernel", SCALE),
    "disable_gradient_checkpointing": Foreign("gradient_checkpointing", NOT),
    "disable_shuffling": Foreign("train_sampling_strategy", {"true": "sequential", "false": None}),
    "use_swanlab": Foreign("report_to", {"true": "swanlab", "false": None}),
    "reward_model_type": _refused("--reward_model shows itself what it is", lora=None, full=None, api=None),
    "ref_model": Foreign(instead=REFERENCE),
    "ref_model_adapters": Foreign(instead=REFERENCE),
    "ref_model_quantization_bit": Foreign(instead=REFERENCE),
    "train_on_prompt": _refused("sft learns answers only; --stage pt learns every token of a text"),
    "compute_accuracy": _refused("--do_eval gives loss and perplexity, --do_predict BLEU-4 and ROUGE"),
    "early_stopping_steps": Foreign(instead="--load_best_model_at_end keeps the best checkpoint"),
    "tokenized_path": Foreign(instead="encoded data is cached by itself (--data_cache_dir)"),
    "padding_side": _refused("batches have no padding", left=None, right=None),
    "upcast_layernorm": _refused("--dtype float32 loads the weights in float32"),
    "upcast_lmhead_output": _refused("the loss is always computed in float32", true=None, false=None),
    "shift_attn": _refused("LongLoRA is not offered; --rope_scaling stretches the positions"),
    "mixture_of_depths": Foreign(instead="it is not offered"),
    "moe_aux_loss_coef": Foreign(instead="the router is trained by the loss of the answers alone"),
    "use_llama_pro": _refused("--finetuning_type freeze trains layers that are there; none are added"),
    "use_unsloth": _refused("training has fused layers of its own; leave it out"),
    "use_unsloth_gc": _refused("use --gradient_checkpointing"),
    "use_galore": _refused(OPTIM),
    "use_apollo": _refused(OPTIM),
    "use_badam": _refused(OPTIM),
    "use_adam_mini": _refused(OPTIM),
    "use_muon": _refused(OPTIM),
    "use_mca": _refused(PROCESSES),
    "ray_run_name": Foreign(instead=PROCESSES),
    "ray_num_workers": Foreign(instead=PROCESSES),
    "ray_storage_path": Foreign(instead=PROCESSES),
    "image_max_pixels": Foreign(instead=ONLY_TEXT),
    "media_dir": Foreign(instead=ONLY_TEXT),
    "freeze_vision_tower": _refused(ONLY_TEXT, true=None, false=None),
    "print_param_status": _refused("the number of trained weights is always printed"),
}  # fmt: skip
# of MedicalGPT and axolotl
OF_MEDICALGPT_AND_AXOLOTL = {
    "base_model": Foreign("model_name_or_path"),
    "peft_path": Foreign("checkpoint_dir"),
    "lora_model_dir": Foreign("checkpoint_dir"),
    "target_modules": Foreign("lora_target"),
    "adapter": Foreign("quantization_bit", {"lora": None, "qlora": "4"}),
    "sequence_len": Foreign("cutoff_len"),
    "sample_packing": Foreign("packing", SCALE),
    "micro_batch_size": Foreign("per_device_train_batch_size"),
    "eval_batch_size": Foreign("per_device_eval_batch_size"),
    "num_epochs": Foreign("num_train_epochs"),
    "optimizer": Foreign("optim"),
    "lr_scheduler": Foreign("lr_scheduler_type"),
    "saves_per_epoch": Foreign(instead="--save_steps takes a share below 1 of the steps"),
    "val_set_size": Foreign("val_size", share=True, instead="--val_size takes a share below 1, or a number of records"),
    "flash_attention": Foreign("attention", {"true": "flash_attention_2", "false": "auto"}),
    "train_on_inputs": _refused("sft learns answers only; --stage pt learns every token of a text"),
    "train_file_dir": Foreign(instead="name its files, comma separated, as --dataset"),
    "validation_file_dir": Foreign(instead="name its files, comma separated, as --eval_dataset"),
    "datasets": Foreign(instead="name them, comma separated, as --dataset; dataset_info.json says what they are"),
    "model_type": Foreign(instead="the model's config.json says it; leave it out"),
    "tokenizer_type": Foreign(instead="the model's folder says it; leave it out"),
    "wandb_project": Foreign(instead="give --report_to wandb, and set WANDB_PROJECT"),
}
# which commands that do not train are given as well: what a checkpoint is, it says itself
OF_TRAINING = {"finetuning_type": Foreign(values=dict.fromkeys(("lora", "freeze", "full", "none")))}
FOREIGN: dict[str, Foreign] = OF_TRAINING | OF_TRANSFORMERS | OF_OTHERS | OF_MEDICALGPT_AND_AXOLOTL


class Today(NamedTuple):
    """What a foreign option is today; `option` is "" where it asks for what happens anyway. `note` says so."""

    option: str
    words: list[str]
    note: str


def translate(name: str, words: Sequence[str], known: Collection[str]) -> Today | None:
    """Return what a foreign option is today; None for a name that nothing is known of.

    `known` are the names of the command's own options. Raises `UserError` for an option that cannot be accepted.
    """
    if not _reads(name, known):
        return None
    entry, value = FOREIGN[name], ",".join(words) if len(words) > 1 else " ".join(words)
    found = _value(name, value, entry)
    if found is None:
        return Today(
            "", [], f"--{name} {value}".rstrip() + f" is not needed: {entry.instead or 'that is how it works here'}"
        )
    return Today(entry.option, [found], f"--{name} is read as --{entry.option} {found}")


def _reads(name: str, known: Collection[str]) -> bool:
    """Whether a name is a foreign one that a command with these options can answer."""
    entry = FOREIGN.get(name)
    return entry is not None and (entry.option in known or (not entry.option and "model_name_or_path" in known))


def _value(name: str, value: str, entry: Foreign) -> str | None:
    """Return today's value; None where the option asks for what happens anyway. Raises `UserError`."""
    plain = value.strip().lower() or "true"
    plain = "true" if plain in TRUE and "1" not in entry.values else "false" if plain in FALSE else plain
    table = {key.lower(): found for key, found in entry.values.items()}
    if plain in table:
        return table[plain]
    if not entry.option:
        raise UserError(f"--{name} is not an option here: {entry.instead}")
    if entry.values:
        help_ = f"; {entry.instead}" if entry.instead else ""
        raise UserError(f"--{name} {value}: known values are {', '.join(entry.values)} (today --{entry.option}){help_}")
    if entry.share and not _below_one(value):
        raise UserError(f"--{name} {value} is not a share below 1: {entry.instead}")
    return value + entry.unit if entry.unit and value.replace(".", "", 1).isdigit() else value


def _below_one(value: str) -> bool:
    try:
        return 0 <= float(value) < 1
    except ValueError:
        return False
