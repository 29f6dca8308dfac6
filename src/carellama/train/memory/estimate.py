"""Whether a training fits into memory: an estimate by part before the weights are read, and what would help.

    found = estimate(Session.open(config))
    print(found.total, found.parts)

By `carellama.train.memory.trace`, which goes through a step without numbers, with the largest batch of the data. By
formula: what allocators keep, answers that are written while training, shards of FSDP and DeepSpeed, and models that
torch cannot go through without numbers (Korthikanti et al. 2022, arXiv:2205.05198, eq. 2 and table 2).
"""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel, Trainer

from carellama.config.environment import world
from carellama.config.run import RunOptions
from carellama.data.encoding.examples import Examples
from carellama.hardware import fastest_dtype, has_gpu, process_memory_bytes
from carellama.model.lora import AnyModel, base_of
from carellama.model.meta import apply_adapters_meta, meta_model
from carellama.records import IGNORED
from carellama.train.batch_layout import supports_packing
from carellama.train.chunked_loss import CHUNK_POSITIONS
from carellama.train.distributed import ALONE, FSDP, Engine, engine_of
from carellama.train.kto import mismatched_pairs
from carellama.train.memory.trace import BatchShape, StepConfig, StepMemory, fixed_bytes, sample_layers, trace_step
from carellama.train.session import Session

if TYPE_CHECKING:
    from carellama.data.encoding.prepare import Prepared
    from carellama.data.encoding.prompts import Tasks

log = logging.getLogger(__name__)

# of a step's memory on a GPU, which its allocator keeps in pieces and kernels need inside themselves
GPU_FRAGMENTATION = 0.05
CUDA_CONTEXT_BYTES = 600 << 20  # of a GPU: CUDA itself and the libraries' kernels and workspaces
# of what layers put into the C library's heap: what it cannot use again, see benchmarks/plan_error.py
CPU_FRAGMENTATION = 0.25
ONEDNN_CACHE_BYTES = 100 << 20  # of oneDNN on a CPU in bfloat16, see `carellama.config.environment.few_kernels`
PROMPTS_MEASURED = 256  # of which the longest counts
EPOCHS = 5  # at most, whose orders are drawn to find the largest batch
SUGGESTED_MICRO_BATCH_TOKENS = 256  # tokens, fewer of which bring little


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by part at the moment with the most, of one process, and the batch that they are of."""

    parts: dict[str, int]
    batch: BatchShape
    notes: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.parts.values())


def estimate_memory(session: Session, process: int | None = None) -> MemoryEstimate:
    """Return what a training needs in the process that needs most; `process`: bytes of it before the model."""
    options, prepared, plan = session.options, session.prepared, session.model_plan
    network = meta_model(
        options.model, dtype=plan.dtype, attention=plan.attention, kind=plan.kind, rows=plan.embedding_rows
    )
    padded = options.stage.compares_completions or not supports_packing(network)
    adapted = plan.adapters.trains == "adapter"
    model = network if adapted else apply_adapters_meta(network, plan.adapters, plan.new_tokens)  # of some layers
    stack = sample_layers(network)
    if adapted:
        model = apply_adapters_meta(network, plan.adapters, plan.new_tokens)
    whole, batch = largest_batch(options, cast("Prepared | Tasks", prepared), padded=padded)
    notes: list[str] = []
    how = step_config(options, model)
    if batch.tokens < whole.tokens:
        how = dataclasses.replace(how, micro_batches=2)  # or more
        notes.append(f"the largest batch is learned from in parts of at most {batch.tokens:,} tokens (--row_tokens)")
    try:
        found = trace_step(model, stack, batch, how)
    except Exception as error:  # noqa: BLE001 - of whatever a model does that needs values
        reason = " ".join(str(error).split())[:100]
        notes.append(f"by a rule of thumb: this model cannot be gone through without its weights ({reason})")
        found = estimate_by_formula(fixed_bytes(model, stack, how), network.config.get_text_config(), batch, how)
    parts = {part: size for part, size in found.parts.items() if size or part == "gradients"}
    if options.stage.generates:
        _add_generation_memory(options, network.config.get_text_config(), batch, parts, notes)
    _apply_sharding(parts, found.learned, engine_of(options.training), notes)
    parts["kept"] = int(GPU_FRAGMENTATION * sum(parts.values()) if has_gpu() else CPU_FRAGMENTATION * found.heaped)
    if how.device == "cpu" and how.compute == torch.bfloat16:
        parts["kernels"] = ONEDNN_CACHE_BYTES
    parts["process"] = CUDA_CONTEXT_BYTES if has_gpu() else process_memory_bytes() if process is None else process
    return MemoryEstimate(parts, whole, notes)


def step_config(options: RunOptions, model: AnyModel) -> StepConfig:
    """How a step of this run is made."""
    training, stage, compares = options.training, options.stage, options.has_reference
    adapted = hasattr(model, "peft_config")
    base = base_of(model)
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(training, base)
    return StepConfig(
        device="cuda" if has_gpu() else "cpu",
        compute=torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else None,
        checkpointing=(training.gradient_checkpointing_kwargs or {}) if training.gradient_checkpointing else None,
        micro_batches=training.gradient_accumulation_steps,
        objective=stage.objective,
        reference=compares and stage.reference_in_step,
        copied=compares and not adapted,
        chunked=_plain_head(base) and not engine_of(training).shards,
        # one that wants numbers (of 8 bit, or of another library) counts as Adam's two moments
        optimiser=(kind, settings) if kind.__module__.startswith(("torch.", "transformers.")) else None,
    )


def _plain_head(base: PreTrainedModel) -> bool:
    """As far as a configuration says: see `carellama.train.chunked_loss.has_plain_head`."""
    head = base.get_output_embeddings()
    scaled = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    plain = all(getattr(base.config.get_text_config(), name, None) in (None, 1, 1.0) for name in scaled)
    return type(head) is torch.nn.Linear and getattr(head, "bias", None) is None and plain


def largest_batch(options: RunOptions, prepared: Prepared | Tasks, *, padded: bool) -> tuple[BatchShape, BatchShape]:
    """The largest batch of the data, and the most of it that can be learned from at once, see `PackedTrainer.parts`.

    In random orders of as many epochs as are trained; of a stream, full records.
    """
    training, stage = options.training, options.stage
    size, whole = training.per_device_train_batch_size, options.data.lengths.total
    if stage.generates:
        answer = options.generating.max_new_tokens
        # ppo makes rows of the answers of a step, grpo the answers to a step's prompts: one a place of the batch
        tasks = cast("Tasks", prepared)
        longest = max(len(tasks.encode(task)) for task in (tasks.train or tasks.held_out or [])[:PROMPTS_MEASURED])
        prompt = min(longest, options.data.lengths.prompt)
        batch = BatchShape((prompt + answer,) * size, size * answer, padded)
        return batch, batch
    examples = prepared.train
    if not isinstance(examples, Examples):
        width = stage.examples_per_record
        records, longest = [(whole, whole)] * size * width, whole * width
        others = (whole,) * size if stage.compares_mismatched else ()
    else:
        lengths = examples.lengths
        if examples.windows is not None:
            lengths = np.array([lengths[window].sum() for window in examples.windows])
        groups = _batch_indices(options, len(lengths))
        loads = lengths[groups].max(1) if padded else lengths[groups].sum(1)
        places = groups[int(loads.argmax())]
        chosen = [examples[int(place)] for place in places]
        records = [  # (tokens, supervised tokens)
            (min(len(one), whole), int((one.labels[1:whole] != IGNORED).sum())) for example in chosen for one in example
        ]
        longest = int(lengths.max()) if examples.windows is None else whole
        mismatched = mismatched_pairs(chosen, whole) if stage.compares_mismatched else ()
        others = tuple(len(one) for (one,) in mismatched)
    batch, limit = dataclasses.replace(_batch(records, padded=padded), others=others), options.row_limit
    if not limit or padded:
        return batch, batch
    return batch, _batch(_largest_micro_batch(records, max(limit, longest)), padded=padded)


def _batch_indices(options: RunOptions, count: int) -> np.ndarray:
    """The places of the examples of each batch, (batches, examples)."""
    training = options.training
    size = min(training.per_device_train_batch_size, count)
    of_epoch = -(-count // size)
    if training.max_steps > 0:
        steps = training.max_steps * training.gradient_accumulation_steps * world()[1]
    else:
        steps = math.ceil(training.num_train_epochs * of_epoch)
    draw = np.random.default_rng(training.seed)
    groups = []
    for _ in range(min(-(-steps // of_epoch), EPOCHS)):
        order = draw.permutation(count)[: min(steps, of_epoch) * size]
        groups.append(np.resize(order, (-(-len(order) // size), size)))
    return np.concatenate(groups)


def _batch(records: list[tuple[int, int]], *, padded: bool) -> BatchShape:
    lengths, targets = zip(*records, strict=True)
    return BatchShape(lengths, max(sum(targets), 1), padded)


def _largest_micro_batch(records: list[tuple[int, int]], tokens: int) -> list[tuple[int, int]]:
    """So many tokens of a batch: the most that a part of it, or another batch in one part, can have."""
    found = []
    for length, targets in records:
        taken = min(length, tokens)
        tokens -= taken
        if taken:
            found.append((taken, min(targets, taken)))
    return found


def estimate_by_formula(
    found: dict[str, int], text: PreTrainedConfig, batch: BatchShape, how: StepConfig
) -> StepMemory:
    """Activations of transformer layers: 17 values a token and hidden unit, and 2.5 a pair of tokens and head."""
    width = 2 if how.compute else 4
    hidden, layers, heads = text.hidden_size, text.num_hidden_layers, text.num_attention_heads
    pairs = sum(length**2 for length in batch.lengths)
    layer = int(width * (17 * batch.tokens * hidden + 2.5 * heads * pairs))
    kept = width * batch.tokens * hidden * layers + layer if how.checkpointing is not None else layer * layers
    rows = min(batch.targets, CHUNK_POSITIONS) if how.chunked else batch.targets
    logits = rows * text.vocab_size * (4 + (4 + width if not how.chunked else width if how.compute else 0))
    return StepMemory(found | {"activations": kept, "logits": logits}, found["gradients"], 2 * layer * layers)


def _add_generation_memory(
    options: RunOptions, text: PreTrainedConfig, batch: BatchShape, parts: dict[str, int], notes: list[str]
) -> None:
    """Keys and values of the answers that are written at once, where they take more than a step's activations."""
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    width = 2 if options.training.bf16 or options.training.fp16 else 4
    at_once = (
        len(batch.lengths) * options.training.gradient_accumulation_steps
        if options.stage.compares_completions
        else options.training.per_device_eval_batch_size
    )
    cache = 2 * at_once * max(batch.lengths) * text.num_hidden_layers * heads * head * width
    cache += at_once * text.vocab_size * 8  # logits of a token, and their sorted copy
    step = parts.get("activations", 0) + parts.get("logits", 0)
    if cache > step:
        parts.pop("activations", None), parts.pop("logits", None)
        parts["answering"] = cache
    if options.reward.reward_model and not options.reward.reward_model.startswith(("http://", "https://")):
        notes.append("a reward model with a base of its own is not counted")


def _apply_sharding(parts: dict[str, int], learned: int, engine: Engine, notes: list[str]) -> None:
    """Divide what FSDP or a stage of ZeRO keeps in shards; DDP keeps a second copy of the gradients in its buckets."""
    if engine.name == ALONE:
        return
    divided = {
        "ZeRO-1": ("optimiser",),
        "ZeRO-2": ("optimiser", "gradients"),
        "ZeRO-3": ("optimiser", "gradients", "weights", "adapters"),
        FSDP: ("optimiser", "gradients", "weights", "adapters"),
    }.get(engine.name, ())
    for part in divided:
        if part in parts:
            parts[part] = -(-parts[part] // engine.processes)
    if not divided:
        parts["gradients"] += learned
    else:
        notes.append(f"{', '.join(divided)} divided by {engine.processes} processes ({engine.name}); loading is not")


def suggestions(options: RunOptions) -> list[tuple[str, RunOptions]]:
    """Changes that need less memory, by what a person would write, each with the run that it makes."""
    model, data, finetuning, training = options.model, options.data, options.finetuning, options.training
    found: list[tuple[str, RunOptions]] = []
    if not has_gpu() and fastest_dtype() == "bfloat16" and not training.bf16:
        found.append(("--bf16 true", options.with_training(bf16=True)))
    size = training.per_device_train_batch_size
    stage = options.stage
    if not training.gradient_checkpointing:
        found.append(("--gradient_checkpointing", options.with_training(gradient_checkpointing=True)))
    smaller = size // 2
    while smaller >= stage.min_batch and not stage.compares_completions:
        steps = training.gradient_accumulation_steps * (size // smaller)
        words = f"--per_device_train_batch_size {smaller} --gradient_accumulation_steps {steps}"
        changed = options.with_training(per_device_train_batch_size=smaller, gradient_accumulation_steps=steps)
        found.append((words, changed))
        smaller //= 4
    if stage.loss_unit is not None and world()[1] == 1 and not 0 < options.row_limit <= SUGGESTED_MICRO_BATCH_TOKENS:
        tokens = SUGGESTED_MICRO_BATCH_TOKENS
        shorter_rows = dataclasses.replace(options, own=dataclasses.replace(options.own, row_tokens=tokens))
        found.append((f"--row_tokens {tokens}", shorter_rows))
    cut = data.lengths.total // 2
    if cut >= 64 and not stage.generates:
        shorter = dataclasses.replace(data, cutoff_len=cut, max_source_length=None, max_target_length=None)
        found.append((f"--cutoff_len {cut}", dataclasses.replace(options, data=shorter)))
    if finetuning.finetuning_type == "lora" and not model.quantization_bit and not finetuning.pissa_init:
        packed = dataclasses.replace(model, quantization_bit=4)
        found.append(("--quantization_bit 4", dataclasses.replace(options, model=packed)))
    if finetuning.finetuning_type == "full":
        lora = dataclasses.replace(finetuning, finetuning_type="lora")
        found.append(("--finetuning_type lora", dataclasses.replace(options, finetuning=lora)))
    return found
