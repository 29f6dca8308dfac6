"""Command lines and settings that people paste from other programs: what each becomes, or what they are told."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from carellama.config.commands import EXPORT_OPTIONS
from carellama.config.reader import parse_options
from carellama.config.serve import CHAT_OPTIONS
from carellama.errors import UserError
from carellama.train.options import parse_run
from test_layout import HEAVY

COMMANDS = {"chat": CHAT_OPTIONS, "export": EXPORT_OPTIONS}
NOTHING: dict[str, Any] = {}
# words -> the options that they become: of ours by value, of transformers by word
READ: dict[str, dict[str, Any]] = {
    "--warmup_ratio 0.1": {"warmup_steps": "0.1"},
    "--evaluation_strategy steps --eval_steps 50": {"eval_strategy": "steps", "eval_steps": "50"},
    "--evaluation_strategy=epoch": {"eval_strategy": "epoch"},
    "--no_cuda": {"use_cpu": "true"},
    "--per_gpu_train_batch_size 4": {"per_device_train_batch_size": "4"},
    "--per_gpu_eval_batch_size 4": {"per_device_eval_batch_size": "4"},
    "--adapter_name_or_path saves/sft": {"checkpoint_dir": "saves/sft"},
    "--finetuning_type lora --lora_rank 16 --lora_alpha 32": {"lora_rank": 16, "lora_alpha": 32.0},
    "--lora_r 16": {"lora_rank": 16},
    "--lora_target q_proj,v_proj": {"lora_target": "q_proj,v_proj"},
    "--lora_target_modules q_proj v_proj": {"lora_target": "q_proj,v_proj"},
    "--target_modules all": {"lora_target": "all"},
    "--use_peft True": {"finetuning_type": "lora"},
    "--use_peft False": {"finetuning_type": "full"},
    "--peft_path outputs": {"checkpoint_dir": "outputs"},
    "--cutoff_len 2048": {"cutoff_len": 2048},
    "--cutoff-len 2048": {"cutoff_len": 2048},
    "--max_length 1024": {"cutoff_len": 1024},
    "--max_seq_length 1024": {"cutoff_len": 1024},
    "--model_max_length 512": {"cutoff_len": 512},
    "--block_size 512 --stage pt": {"cutoff_len": 512, "stage": "pt"},
    "--max_source_length 256 --max_target_length 256": {"max_source_length": 256, "max_target_length": 256},
    "--flash_attn fa2": {"attention": "flash_attention_2"},
    "--flash_attn auto": {"attention": "auto"},
    "--flash_attn disabled": {"attention": "eager"},
    "--attn_implementation sdpa": {"attention": "sdpa"},
    "--torch_dtype bfloat16": {"dtype": "bfloat16"},
    "--quantization_bit 4 --quantization_method bnb": {"quantization_bit": 4},
    "--load_in_4bit True": {"quantization_bit": 4},
    "--load_in_8bit True": {"quantization_bit": 8},
    "--bits 4": {"quantization_bit": 4},
    "--neat_packing true": {"packing": True},
    "--packing": {"packing": True},
    "--packing false": {"packing": False},
    "--no_double_quantization": {"double_quantization": False},
    "--default_system Hello": {"system_prompt": "Hello"},
    "--dev_ratio 0.1": {"val_size": 0.1},
    "--val_size 0.1": {"val_size": 0.1},
    "--enable_liger_kernel false": {"use_liger_kernel": False},
    "--disable_gradient_checkpointing": {"gradient_checkpointing": "false"},
    "--disable_shuffling": {"train_sampling_strategy": "sequential"},
    "--use_swanlab": {"report_to": "swanlab"},
    "--create_new_adapter": {"resume_lora_training": False},
    "--freeze_trainable_layers 2 --finetuning_type freeze": {"num_layer_trainable": 2},
    "--preprocessing_num_workers 16 --overwrite_cache": {"preprocessing_num_workers": 16, "overwrite_cache": True},
    "--max_samples 1000": {"max_samples": 1000},
    "--learning-rate 1e-4": {"learning_rate": "1e-4"},
    "--lr_scheduler_type cosine": {"lr_scheduler_type": "cosine"},
    "--use_unsloth false": NOTHING,
    "--use_fast_tokenizer true": NOTHING,
    "--adapter qlora --sequence_len 2048": {"quantization_bit": 4, "cutoff_len": 2048},
    "--micro_batch_size 2 --num_epochs 3": {"per_device_train_batch_size": "2", "num_train_epochs": "3"},
    "--sample_packing true": {"packing": True},
    "--val_set_size 0.05": {"val_size": 0.05},
    "--optimizer adamw_torch --lr_scheduler cosine": {"optim": "adamw_torch", "lr_scheduler_type": "cosine"},
    "chat --infer_backend vllm --adapter_name_or_path a --template llama2": {"engine": "vllm", "checkpoint_dir": "a"},
    "chat --infer_backend huggingface": {"engine": "transformers"},
    "chat --finetuning_type lora --checkpoint_dir output": {"checkpoint_dir": "output"},
    "export --export_dir merged --export_size 5": {"output_dir": "merged", "max_shard_size": "5GB"},
    "export --adapter_name_or_path a --export_dir m --export_device cpu": {"checkpoint_dir": "a", "output_dir": "m"},
}
# words -> what the answer says
REFUSED: dict[str, str] = {
    "--quantization_method hqq": "bitsandbytes",
    "--use_unsloth true": "fused layers of its own",
    "--train_on_prompt true": "--stage pt learns every token",
    "--train_file_dir data/finetune": "as --dataset",
    "--validation_file_dir data/finetune": "as --eval_dataset",
    "--model_type llama": "config.json",
    "--ref_model base": "the model that the training begins from",
    "--ray_num_workers 4": "torchrun or accelerate launch",
    "--use_galore true": "--optim galore_adamw",
    "--group_by_length": "batches have no padding",
    "--fp16_opt_level O2": "apex is not supported",
    "--wandb_project p": "--report_to wandb",
    "--media_dir x": "text models only",
    "--warmup_ratio 0.1 --warmup_steps 10": "give one of them",
    "--lr_scheduler_type cosin": "Did you mean 'cosine'",
    "--optim adamw_torh": "Did you mean 'adamw_torch'",
    "--lora_rnak 8": "Did you mean '--lora_rank'",
    "--learning_rat 1": "Did you mean '--learning_rate'",
    "chat --dataset d": "unknown option '--dataset'. It belongs to carellama train.",
    "chat --lora_rank 8": "unknown option '--lora_rank'. It belongs to carellama train.",
    "chat --lora-rank 8": "It belongs to carellama train.",
    "chat --learning_rate 1": "It belongs to carellama train.",
    "chat --attention sdpa": "unknown option '--attention'. It belongs to carellama train.",
    "chat --max_header_bytes 9": "It belongs to carellama api.",
    "chat --gguf_tipe f16": "Did you mean '--gguf_type'",
    "export --output_dir o --system_prompt s": "unknown option '--system_prompt'",
    "--max_shard_size 1GB": "It belongs to carellama export.",
}


def options_of(words: str) -> dict[str, Any]:
    first, *rest = words.split()
    if first in COMMANDS:
        groups = parse_options(COMMANDS[first], ["--model_name_or_path", "m", *rest], f"carellama {first}")
        return {name: value for group in groups for name, value in vars(group).items()}
    parsed = parse_run(["--model_name_or_path", "m", *words.split()])
    ours = {name: value for group in parsed.groups for name, value in vars(group).items()}
    return ours | {name: " ".join(values) for name, values in parsed.training.items()}


@pytest.mark.parametrize("words", READ)
def test_pasted_options_are_read(words: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = options_of(words)
    assert {name: found[name] for name in READ[words]} == READ[words]
    for note in caplog.messages:  # what is read as something else, or not needed, is said once
        assert " is read as --" in note or " is not needed: " in note
    if READ[words] is NOTHING:
        assert len(caplog.messages) == 1


@pytest.mark.parametrize("words", REFUSED)
def test_pasted_options_are_answered_with_what_to_use(words: str) -> None:
    with pytest.raises(UserError) as error:
        options_of(words)
    assert REFUSED[words] in str(error.value)


def test_settings_of_axolotl_are_read(tmp_path: Path) -> None:
    (tmp_path / "axolotl.yaml").write_text(
        "base_model: m\nadapter: qlora\nload_in_4bit: true\nsequence_len: 2048\nsample_packing: true\n"
        "lora_r: 32\nlora_alpha: 16\nlora_target_modules: [q_proj, v_proj]\nmicro_batch_size: 2\nnum_epochs: 4\n"
        "optimizer: adamw_bnb_8bit\nlr_scheduler: cosine\nlearning_rate: 0.0002\nval_set_size: 0.05\n"
        "gradient_checkpointing: true\nflash_attention: true\nspecial_tokens:\n"
    )
    parsed = parse_run([str(tmp_path / "axolotl.yaml")])
    model, data, finetuning, *_ = parsed.groups
    assert (model.model_name_or_path, model.quantization_bit, model.attention) == ("m", 4, "flash_attention_2")
    assert (data.cutoff_len, data.packing, data.val_size) == (2048, True, 0.05)
    assert (finetuning.lora_rank, finetuning.lora_target) == (32, "q_proj,v_proj")
    assert parsed.training["optim"] == ["adamw_bnb_8bit"] and parsed.training["num_train_epochs"] == ["4"]


def test_whose_option_it_is_takes_no_library() -> None:
    code = (
        "import sys; from carellama.cli import call\n"
        "try: call('chat', ['--model_name_or_path', 'm', '--lora_rank', '8'])\n"
        f"finally: print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (2, "[]"), done.stderr
    assert done.stderr == "error: unknown option '--lora_rank'. It belongs to carellama train. See --help.\n"
