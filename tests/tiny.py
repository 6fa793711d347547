"""Tiny random models of every family that the anatomy knows, and a batch with padding for them."""

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

transformers.logging.set_verbosity_error()

COMMON = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_labels": 3,
}  # fmt: skip
SEQ2SEQ = {
    "vocab_size": 50, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0, "forced_eos_token_id": 2,
    "num_labels": 3,
}  # fmt: skip
GROUPED = {**COMMON, "num_key_value_heads": 2, "head_dim": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "mpnet"), COMMON),
    "distilbert": {
        "vocab_size": 50, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64,
        "pad_token_id": 0, "num_labels": 3,
    },
    "electra": {**COMMON, "embedding_size": 16},
    "albert": {**COMMON, "embedding_size": 16},
    "deberta-v2": {
        **COMMON, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 4,
        "position_biased_input": False, "type_vocab_size": 0, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    },
    "modernbert": {**COMMON, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 4, "layer_types": [
        "full_attention", "sliding_attention"]},
    "gpt2": {
        "vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 64, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "num_labels": 3,
    },
    **dict.fromkeys(("llama", "qwen2", "qwen3"), GROUPED),
    "mistral": {**GROUPED, "sliding_window": 3},
    "t5": {
        "vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
        "eos_token_id": 2, "decoder_start_token_id": 0, "num_labels": 3, "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 16,
    },
    **dict.fromkeys(("bart", "marian", "pegasus"), SEQ2SEQ),
}  # fmt: skip
# The same families in their other shapes.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "deberta-v2, own position projections": ("deberta-v2", {"share_att_key": False}),
    "deberta-v2, convolution": ("deberta-v2", {"conv_kernel_size": 3, "embedding_size": 16, "type_vocab_size": 2}),
    "deberta-v2, absolute": ("deberta-v2", {"relative_attention": False, "position_biased_input": True}),
    "t5, gated": ("t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "albert, two groups": ("albert", {"num_hidden_groups": 2, "inner_group_num": 2}),
}
KINDS = {
    "base": "AutoModel",
    "classes": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "spans": "AutoModelForQuestionAnswering",
    "masked": "AutoModelForMaskedLM",
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "choice": "AutoModelForMultipleChoice",
    "pretraining": "AutoModelForPreTraining",
}


def config(name: str, **more: Any) -> PreTrainedConfig:
    """The tiny configuration of a family or a variant."""
    family, variant = VARIANTS.get(name, (name, {}))
    return AutoConfig.for_model(family, **{**FAMILIES[family], **variant, **more})


def offers(name: str, kind: str) -> bool:
    return type(config(name)) in getattr(transformers, KINDS[kind])._model_mapping


def build(name: str, kind: str = "base", seed: int = 0, attn: str | None = None, **more: Any) -> nn.Module:
    """A model in eval mode, all of whose parameters, biases and norms too, are random enough to matter."""
    if kind == "causal" and name in ("bert", "roberta", "xlm-roberta", "electra"):
        more["is_decoder"] = True
    if kind == "spans":
        more["num_labels"] = 2  # a start and an end
    made = getattr(transformers, KINDS[kind]).from_config(config(name, **more), attn_implementation=attn)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.2 + (parameter == 1) * 1.0)
    return made.eval()


def batch(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Two texts of 7 and 4 tokens that end in </s>; the decoder, where there are two towers, reads 5 and 3."""
    draw = torch.Generator().manual_seed(seed)

    def ids(*lengths: int) -> tuple[Tensor, Tensor]:
        mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
        words = torch.randint(5, 50, mask.shape, generator=draw)
        words[range(len(lengths)), [n - 1 for n in lengths]] = 2
        return words * mask, mask.long()

    out = dict(zip(("input_ids", "attention_mask"), ids(7, 4), strict=True))
    if model.config.is_encoder_decoder and "TokenClassification" not in type(model).__name__:
        out |= dict(zip(("decoder_input_ids", "decoder_attention_mask"), ids(5, 3), strict=True))
    if model.config.is_encoder_decoder and "SequenceClassification" in type(model).__name__:
        del out["decoder_input_ids"], out["decoder_attention_mask"]
    return out


def patience(features: list[str], depth: int, width: int, labels: int, patience: int, tolerance: float = 0.1) -> Any:
    """Exits after every layer but the last, which share the model's pooler and are left by patience."""
    from gossamer.runtime.exits import Exits

    places = list(range(1, depth))
    head = {"is": "SharedPooler", "width": width, "labels": labels, "count": depth - 1, "features": features}
    criterion = {"is": "Agreement", "tolerance": tolerance}
    return Exits(depth, places, head, criterion, float(patience), features, "classifier")


def said(exits: Any, i: int, x: Tensor) -> Tensor:
    """The logits of exit i, from the hidden states (b, t, d) after its layer."""
    return exits.at(i, x[:, 0], {})[0]
