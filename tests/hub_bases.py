"""Tiny random bases whose files are spelled as on the hub, where most were written by transformers 4.

    write_base("qwen2", folder)      # config.json, generation_config.json, tokenizer files, model.safetensors

Each tokenizer is a byte-level or SentencePiece-like BPE with the special tokens, the post-processor and the class name
of its family; vocabularies and weights are made here.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

from conftest import CORPUS

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant'"
    " else message['role']) + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
QWEN_SPLIT = SPLIT.replace(r"\p{N}{1,3}", r"\p{N}").replace(r"|\s+(?!", r"|\s*[\r\n]+|\s+(?!")
SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "torch_dtype": "float32", "use_cache": True,
    "transformers_version": "4.40.0", "initializer_range": 0.3,
}  # fmt: skip
ROPE_LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
# family: (config.json, tokenizer_config.json without tokens, special tokens in order, bos, eos, pad, unk)
BASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str], tuple[str | None, ...]]] = {
    "llama3": (
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rope_theta": 500000.0,
         "rope_scaling": ROPE_LLAMA3, "tie_word_embeddings": True},
        {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": LLAMA3, "clean_up_tokenization_spaces": True,
         "model_input_names": ["input_ids", "attention_mask"]},
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        ("<|begin_of_text|>", "<|eot_id|>", None, None),
    ),
    "qwen2": (
        {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "rope_theta": 1000000.0, "sliding_window": 128,
         "use_sliding_window": False, "max_window_layers": 1, "tie_word_embeddings": True},
        {"tokenizer_class": "Qwen2Tokenizer", "chat_template": CHATML, "add_prefix_space": False,
         "split_special_tokens": False, "errors": "replace",
         "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]},
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        (None, "<|im_end|>", "<|endoftext|>", None),
    ),
    "qwen3": (
        {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "rope_theta": 1000000, "head_dim": 16,
         "sliding_window": None, "use_sliding_window": False, "max_window_layers": 2, "tie_word_embeddings": False,
         "rope_scaling": None},
        {"tokenizer_class": "Qwen2Tokenizer", "chat_template": CHATML, "add_bos_token": False,
         "extra_special_tokens": {}, "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]},
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"],
        (None, "<|im_end|>", "<|endoftext|>", None),
    ),
    "mistral": (
        {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "rope_theta": 1000000.0,
         "sliding_window": None, "tie_word_embeddings": False},
        {"tokenizer_class": "LlamaTokenizer", "chat_template": MISTRAL, "add_bos_token": True, "add_eos_token": False,
         "legacy": False, "sp_model_kwargs": {}, "use_default_system_prompt": False},
        ["<unk>", "<s>", "</s>"],
        ("<s>", "</s>", None, "<unk>"),
    ),
    "gemma3": (
        {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "rope_theta": 1000000.0,
         "rope_local_base_freq": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "head_dim": 8,
         "sliding_window": 12, "sliding_window_pattern": 6, "num_hidden_layers": 6, "query_pre_attn_scalar": 8},
        {"tokenizer_class": "GemmaTokenizer", "chat_template": GEMMA, "add_bos_token": True, "add_eos_token": False},
        ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"],
        ("<bos>", "<eos>", "<pad>", "<unk>"),
    ),
    "bloom": (
        {"model_type": "bloom", "architectures": ["BloomForCausalLM"], "n_layer": 2, "n_head": 4},
        {"tokenizer_class": "BloomTokenizerFast", "add_prefix_space": False, "clean_up_tokenization_spaces": False},
        ["<unk>", "<s>", "</s>", "<pad>"],
        ("<s>", "</s>", "<pad>", "<unk>"),
    ),
    "gpt2": (
        {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 32, "n_layer": 2, "n_head": 4,
         "n_positions": 256, "n_ctx": 256},
        {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "model_max_length": 256},
        ["<|endoftext|>"],
        ("<|endoftext|>", "<|endoftext|>", None, "<|endoftext|>"),
    ),
}  # fmt: skip


def write_base(family: str, folder: Path, *, tokenizer_of: Path | None = None, seed: int = 0) -> Path:
    """Write the base of a family; return its folder.

    tokenizer_of: a model folder whose tokenizer it gets instead of one of its own (llama.cpp knows few).
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = BASES[family][0]
    folder.mkdir(parents=True)
    if tokenizer_of is None:
        _write_tokenizer(family, folder)
    else:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(tokenizer_of / name, folder / name)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    about = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    named = {name: about.get(name) for name in ("bos_token", "eos_token", "pad_token")}
    ids = {f"{name}_id": tokenizer.token_to_id(token) for name, token in named.items() if token}
    config = SIZES | settings | ids | {"vocab_size": tokenizer.get_vocab_size()}
    if family in ("bloom", "gpt2"):
        config = {
            key: value for key, value in config.items() if key not in SIZES or key in ("torch_dtype", "hidden_size")
        }
    _write(folder / "config.json", config)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {"_from_model_config": True, "transformers_version": "4.40.0"} | ids)
    return folder


def _write_tokenizer(family: str, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json of a family."""
    _, about, specials, (bos, eos, pad, unk) = BASES[family]
    tokenizer = _tokenizer(family, specials, bos)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": bos, "eos_token": eos, "pad_token": pad, "unk_token": unk}
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": token not in ("<think>", "</think>"),
        }
        for token in specials
    }  # fmt: skip
    _write(
        folder / "tokenizer_config.json", {"model_max_length": 256} | about | named | {"added_tokens_decoder": added}
    )


def _tokenizer(family: str, specials: list[str], bos: str | None) -> Any:
    """Train the tokenizer of a family on the corpus of the tests."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    spm = family in ("mistral", "gemma3")
    if spm:
        tokenizer = _sentencepiece(specials, prefix=family == "mistral")
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if family in ("llama3", "qwen2", "qwen3"):
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
                pre_tokenizers.Split(Regex(SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ])  # fmt: skip
        if family in ("qwen2", "qwen3"):
            tokenizer.normalizer = normalizers.NFC()
        trainer = trainers.BpeTrainer(
            vocab_size=len(specials) + 300, special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        )  # fmt: skip
        tokenizer.train_from_iterator(CORPUS, trainer)
    for token in ("<think>", "</think>"):
        if token in specials:
            tokenizer.add_tokens([AddedToken(token, normalized=False, special=False)])
    if bos and family in ("llama3", "mistral", "gemma3"):
        number = tokenizer.token_to_id(bos)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, number)]
        )
    return tokenizer


def _sentencepiece(specials: list[str], *, prefix: bool) -> Any:
    """Train a SentencePiece model and return it as tokenizer.json has it, in the way of transformers' converter.

    prefix: whether a space stands before every text, as in Llama 2.
    """
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    known = {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>"}
    known |= {} if "<eos>" in specials else {"eos": "</s>", "bos": "<s>"}
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=written, vocab_size=600, hard_vocab_limit=False, model_type="bpe",
        byte_fallback=True, character_coverage=1.0, normalization_rule_name="identity", add_dummy_prefix=prefix,
        remove_extra_whitespaces=False, minloglevel=2,
        user_defined_symbols=[token for token in specials if token not in known.values()],
        **{f"{name}_id": specials.index(token) if token in specials else -1 for name, token in known.items()},  # type: ignore[arg-type]
        **{f"{name}_piece": token for name, token in known.items()},  # type: ignore[arg-type]
    )  # fmt: skip
    trained = SentencePieceProcessor(model_proto=written.getvalue())
    ids = {trained.id_to_piece(number): number for number in range(len(trained))}
    merges = []
    for piece, number in ids.items():
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known_pairs = sorted((ids[left], ids[right], left, right) for left, right in pairs if {left, right} <= {*ids})
        if piece not in specials and not trained.is_byte(number):
            merges += [(-trained.get_score(number), left, right) for _, _, left, right in known_pairs]
    ordered = [(left, right) for _, left, right in sorted(merges, key=lambda merge: merge[0])]
    tokenizer = Tokenizer(models.BPE(ids, ordered, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * prefix)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials])
    return tokenizer


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
