"""A .gguf of the tiny Llama of `conftest`, written without the converter. Not a test module itself.

    path = write_tiny_gguf(folder / "tiny.gguf", make_model(), make_tokenizer())

Its answers are plain letters: rows of the head that stand for parts of characters are zero, so that two programs that
compute the same tokens show the same text.
"""

from __future__ import annotations

import json
from pathlib import Path

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_tiny_gguf(path: Path, model, tokenizer, *, context: int | None = None, ends: bool = True) -> Path:
    """Write model and tokenizer, in float32.

    `context`: tokens that it claims to have been trained on. Without `ends` its answers never end by themselves.
    """
    from gguf import GGUFWriter

    config, state = model.config, model.state_dict()
    head = state["lm_head.weight"]
    for token, at in tokenizer.get_vocab().items():
        if not (token.isascii() and token.isalpha()) and not (ends and at == tokenizer.eos_token_id):
            head[at] = 0
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
    specials = set(tokenizer.all_special_tokens) | {token["content"] for token in data["added_tokens"]}
    writer = GGUFWriter(str(path), "llama")
    writer.add_context_length(context or config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in specials else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in data["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
    for name, weights in state.items():
        writer.add_tensor(f"{_gguf_name(name.removesuffix('.weight'))}.weight", weights.float().numpy())
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


def _gguf_name(name: str) -> str:
    if name in WHOLE:
        return WHOLE[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}"
