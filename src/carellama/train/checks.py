"""Options of a training that contradict each other, or that a stage cannot do: refused before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec

from carellama.config.environment import world
from carellama.config.run import RunOptions
from carellama.errors import UserError
from carellama.hardware import has_gpu
from carellama.stages import STAGES
from carellama.train.distributed import check_engine
from carellama.train.flag_checks import check_training_flags


def check_run(options: RunOptions) -> None:
    """Raise `UserError` for options that contradict each other, before anything is loaded."""
    if not any(getattr(options.training, name) for name in ("do_train", "do_eval", "do_predict")):
        raise UserError("nothing to do: give --do_train, --do_eval or --do_predict")
    if not str(options.training.output_dir or "").strip():
        raise UserError("--output_dir is empty: name a folder for the results, as in --output_dir output")
    if not options.data.datasets:
        raise UserError("no data: give --dataset NAME (a name of dataset_info.json) or --dataset FILE")
    check_attention(options.model.attention)
    check_method(options)
    check_held_out(options)
    check_stage(options)
    check_ppo(options)
    check_grpo(options)
    check_training_flags(options)
    check_engine(options)
    if len(options.model.checkpoints) > 1 and options.finetuning.finetuning_type != "lora":
        raise UserError(
            f"--checkpoint_dir has {len(options.model.checkpoints)} folders; only lora adapters can be merged in turn"
        )


def check_attention(attention: str) -> None:
    """Raise `UserError` for flash attention where its package or a GPU is missing."""
    if attention != "flash_attention_2":
        return
    if not find_spec("flash_attn") and not find_spec("kernels"):
        lacks = "the package flash-attn, which is not installed (pip install flash-attn)"
    elif not has_gpu():
        lacks = "a GPU, and there is none"
    else:
        return
    raise UserError(
        f"--attention {attention} (--flash_attn fa2) needs {lacks}; --attention auto takes the fastest that is here"
    )


def check_method(options: RunOptions) -> None:
    """Raise `UserError` for what cannot be trained of these weights."""
    model, finetuning, training = options.model, options.finetuning, options.training
    if model.quantization_bit and finetuning.finetuning_type in ("full", "freeze"):
        raise UserError(
            f"--quantization_bit works with --finetuning_type lora, not {finetuning.finetuning_type}: "
            "quantised weights cannot be trained"
        )
    if model.quantization_bit and training.do_train:
        if finetuning.pissa_init:
            raise UserError("--pissa_init takes directions out of the weights, which --quantization_bit rounds: choose")
        if finetuning.peft_type in ("loha", "lokr", "hra"):
            raise UserError(f"--peft_type {finetuning.peft_type} does not go with --quantization_bit; lora does")
    if training.do_train and finetuning.finetuning_type != "lora":
        for name in ("use_rslora", "use_dora", "pissa_init", "loraplus_lr_ratio"):
            if getattr(finetuning, name):
                raise UserError(f"--{name} is for --finetuning_type lora, not {finetuning.finetuning_type}")
    if finetuning.add_tokens and not training.do_train:
        raise UserError("--add_tokens is for --do_train; --checkpoint_dir brings the tokens that were trained")
    if training.do_train and finetuning.finetuning_type == "none":
        raise UserError("--finetuning_type none trains nothing: choose lora, freeze or full")


def check_held_out(options: RunOptions) -> None:
    """Raise `UserError` for data of no known length where one is needed, and for held-out data twice or nowhere."""
    data, training = options.data, options.training
    if data.streaming:
        if training.do_train and training.max_steps <= 0:
            raise UserError("--streaming has no known length: give --max_steps")
        if 0 < data.val_size < 1:
            raise UserError("--streaming needs --val_size as a number of records, not a share")
    if data.max_eval_samples and training.do_train and not data.eval_dataset:
        raise UserError("--max_eval_samples is for --eval_dataset; with --val_size it says how many are held out")
    if data.eval_dataset and data.val_size:
        raise UserError("--eval_dataset and --val_size both hold out data: give one of them")
    if training.do_train and training.do_eval and not (data.eval_dataset or data.val_size):
        raise UserError("--do_train with --do_eval needs held-out data: give --val_size or --eval_dataset")


def check_stage(options: RunOptions) -> None:
    """Raise `UserError` for what this stage cannot do with its data."""
    data, training, stage = options.data, options.training, options.stage
    if training.do_predict and not training.predict_with_generate:
        raise UserError("--do_predict needs --predict_with_generate")
    if training.do_predict and not stage.predicts:
        raise UserError(f"--do_predict answers conversations; --stage {stage.name} is evaluated by --do_eval")
    if data.packing and not stage.can_pack:
        able = " and ".join(one.name for one in STAGES.values() if one.can_pack)
        raise UserError(f"--packing is for --stage {able}, not {stage.name}")
    if training.do_train and 1 <= training.per_device_train_batch_size < stage.min_batch:
        raise UserError(
            f"--stage {stage.name} compares the answers of a batch: --per_device_train_batch_size at least "
            f"{stage.min_batch}"
        )
    if options.own.row_tokens and stage.loss_unit is None:
        raise UserError(f"--row_tokens: --stage {stage.name} learns from a batch as a whole")
    if options.own.row_tokens and world()[1] > 1:
        raise UserError("--row_tokens is for one process: several learn from their batches as a whole")


def check_ppo(options: RunOptions) -> None:
    """Raise `UserError` for what stage ppo cannot do, and for a reward model in a stage that has no use for one."""
    generating, training = options.generating, options.training
    if options.reward.reward_model and not options.stage.generates:
        raise UserError(f"--reward_model scores the answers of --stage ppo and grpo, not of {options.stage.name}")
    if options.stage.name != "ppo":
        return
    if options.finetuning.finetuning_type == "freeze":
        raise UserError(
            "--stage ppo compares with the model as it was, which is this one without its adapter: "
            "take --finetuning_type lora (or full, with a frozen copy), not freeze"
        )
    if options.data.streaming:
        raise UserError("--stage ppo reads all of its prompts first: leave --streaming out")
    if not options.reward.reward_model:
        raise UserError("--stage ppo needs --reward_model: an adapter or model of --stage rm, or a server's address")
    if not generating.do_sample or not generating.temperature or generating.num_beams > 1:
        raise UserError("--stage ppo learns from sampled answers: give --temperature above 0 and --num_beams 1")
    if generating.repetition_penalty != 1:
        raise UserError("--stage ppo samples from the model as it is: leave --repetition_penalty at 1")
    if training.ignore_data_skip:
        raise UserError("--stage ppo goes on within a rollout: leave --ignore_data_skip out")
    if training.load_best_model_at_end and training.metric_for_best_model in (None, "loss", "eval_loss"):
        raise UserError("--stage ppo is measured by its score: give --metric_for_best_model score, or leave it out")


def check_grpo(options: RunOptions) -> None:
    """Raise `UserError` for what stage grpo cannot do, and for its options in another stage."""
    training, grpo = options.training, options.grpo
    if options.stage.name != "grpo":
        if grpo.names:
            raise UserError(f"--rewards belongs to --stage grpo, not {options.stage.name}")
        return
    if not grpo.names:
        raise UserError("--stage grpo needs --rewards: letter, citation, format, length, model, constitution, ...")
    if ("model" in grpo.names) != (options.reward.reward_model is not None):
        raise UserError("--rewards model and --reward_model, who gives it, belong together")
    if options.data.streaming:
        raise UserError("--stage grpo reads all of its prompts first: leave --streaming out")
    each, ahead = training.per_device_train_batch_size, training.gradient_accumulation_steps
    processes = world()[1]
    if training.do_train and each * ahead * processes % grpo.num_generations:
        raise UserError(
            f"--num_generations {grpo.num_generations} does not divide the answers of a step: "
            f"{each} (--per_device_train_batch_size) x {ahead} (--gradient_accumulation_steps) x {processes} processes"
        )
