"""What each family calls its parts: the tables that `gossamer.anatomy` reads.

A new family is one more line of FAMILIES; a new kind of head, one more line of HEADS.  Paths are dotted as in
`get_submodule`, and may say more: ``a|b`` the first of the two that exists, ``*`` every child, ``-1`` the last child,
``path[i/n]`` the i-th of n equal parts of the rows of a matrix that several roles share.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Attention:
    """One attention, by paths from its layer; `attend` calls the attention function, `norm` is its sublayer's."""

    attend: str
    q: str
    k: str
    v: str
    o: str
    norm: str


@dataclass(frozen=True)
class Names:
    """Where one family keeps its parts.  A tower is one loop over layers, with the embeddings in front of it."""

    layers: str  # from the tower
    attention: Attention
    up: str  # from the layer, like gate, down, norm and by_head
    down: str
    norm: str  # of the feed-forward sublayer
    word: str  # from the tower, like all that follows but `towers` and `twins`
    gate: str = ""  # of a gated feed-forward part: the factor that goes through the activation
    cross: Attention | None = None
    by_head: tuple[str, ...] = ()  # further linears whose outputs are laid out by head, like those of q
    position: str = ""
    token_type: str = ""
    projection: str = ""  # from the width of the embeddings to that of the stream
    embedding_norm: str = ""
    norm_after: bool = False  # does the embedding norm come after the projection?
    final_norm: str = ""
    post_norm: bool = False  # x = norm(x + f(x)); otherwise x = x + f(norm(x))
    relative: str = ""  # position bias (buckets, heads) that every layer of the tower adds to its scores
    readers: tuple[str, ...] = ()  # what else touches the residual stream, beside the layers
    writers: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    amended: str = ""  # what still changes the hidden states after the first layer
    towers: tuple[str, ...] = ("",)  # from the base model
    twins: str = ""  # from the base model: an embedding that is tied to those of the towers


def _inside(attend: str, q: str, k: str, v: str, o: str, norm: str) -> Attention:
    """An attention that keeps its four matrices (and perhaps its norm) under one roof."""
    return Attention(attend, f"{attend}.{q}", f"{attend}.{k}", f"{attend}.{v}", f"{attend}.{o}", norm)


def _bert(root: str, q: str = "query", k: str = "key", v: str = "value") -> Attention:
    out = f"{root}.output"
    q, k, v = (f"{root}.self.{x}" for x in (q, k, v))
    return Attention(f"{root}.self", q, k, v, f"{out}.dense", f"{out}.LayerNorm")


BERT = Names(
    "encoder.layer", _bert("attention"), "intermediate.dense", "output.dense", "output.LayerNorm",
    word="embeddings.word_embeddings", position="embeddings.position_embeddings",
    token_type="embeddings.token_type_embeddings", embedding_norm="embeddings.LayerNorm",
    cross=_bert("crossattention"), post_norm=True,
)  # fmt: skip
LLAMA = Names(
    "layers", _inside("self_attn", "q_proj", "k_proj", "v_proj", "o_proj", "input_layernorm"), "mlp.up_proj",
    "mlp.down_proj", "post_attention_layernorm", gate="mlp.gate_proj", word="embed_tokens", final_norm="norm",
)  # fmt: skip
BART = Names(
    "layers", _inside("self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "self_attn_layer_norm"), "fc1", "fc2",
    "final_layer_norm", cross=_inside("encoder_attn", "q_proj", "k_proj", "v_proj", "out_proj",
    "encoder_attn_layer_norm"), word="embed_tokens", position="embed_positions", embedding_norm="layernorm_embedding",
    post_norm=True, towers=("encoder", "decoder"), twins="shared",
)  # fmt: skip

FAMILIES: dict[str, Names] = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "electra": replace(BERT, projection="embeddings_project"),
    "distilbert": replace(
        BERT, layers="transformer.layer", up="ffn.lin1", down="ffn.lin2", norm="output_layer_norm", cross=None,
        attention=_inside("attention", "q_lin", "k_lin", "v_lin", "out_lin", "sa_layer_norm"),
    ),
    "albert": replace(
        BERT, layers="encoder.albert_layer_groups.*.albert_layers", up="ffn", down="ffn_output", cross=None,
        norm="full_layer_layer_norm", projection="encoder.embedding_hidden_mapping_in",
        attention=_inside("attention", "query", "key", "value", "dense", "attention.LayerNorm"),
    ),
    "mpnet": replace(
        BERT, attention=_inside("attention.attn", "q", "k", "v", "o", "attention.LayerNorm"), cross=None,
        relative="encoder.relative_attention_bias",
    ),
    "deberta-v2": replace(
        BERT, attention=_bert("attention", "query_proj", "key_proj", "value_proj"), cross=None,
        projection="embeddings.embed_proj", norm_after=True, readers=("encoder.conv.conv",), amended="encoder.conv",
        by_head=("attention.self.pos_key_proj", "attention.self.pos_query_proj"),
        writers=("encoder.rel_embeddings", "encoder.conv.conv"), norms=("encoder.LayerNorm", "encoder.conv.LayerNorm"),
    ),
    "modernbert": Names(
        "layers", _inside("attn", "Wqkv[0/3]", "Wqkv[1/3]", "Wqkv[2/3]", "Wo", "attn_norm"), "mlp.Wi[1/2]", "mlp.Wo",
        "mlp_norm", gate="mlp.Wi[0/2]", word="embeddings.tok_embeddings", embedding_norm="embeddings.norm",
        final_norm="final_norm",
    ),
    "gpt2": Names(
        "h", _inside("attn", "c_attn[0/3]", "c_attn[1/3]", "c_attn[2/3]", "c_proj", "ln_1"), "mlp.c_fc", "mlp.c_proj",
        "ln_2", cross=_inside("crossattention", "q_attn", "c_attn[0/2]", "c_attn[1/2]", "c_proj", "ln_cross_attn"),
        word="wte", position="wpe", final_norm="ln_f",
    ),
    "llama": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "mistral": LLAMA,
    "t5": Names(
        "block", _inside("layer.0.SelfAttention", "q", "k", "v", "o", "layer.0.layer_norm"),
        "layer.-1.DenseReluDense.wi|layer.-1.DenseReluDense.wi_1", "layer.-1.DenseReluDense.wo", "layer.-1.layer_norm",
        gate="layer.-1.DenseReluDense.wi_0", cross=_inside("layer.1.EncDecAttention", "q", "k", "v", "o",
        "layer.1.layer_norm"), word="embed_tokens", final_norm="final_layer_norm", towers=("encoder", "decoder"),
        relative="block.0.layer.0.SelfAttention.relative_attention_bias", twins="shared",
    ),
    "bart": BART,
    "marian": BART,
    "pegasus": replace(BART, post_norm=False, final_norm="layer_norm"),
}  # fmt: skip

# From the last hidden states to the answer, the same for all families; the first line all of whose modules exist holds.
# `@` stands for the base model, `pool` for what config.classifier_pooling says.
HEADS = (
    "first > @pooler > @pooler_activation > classifier",  # albert
    "@pooler > classifier",  # bert
    "pooler > classifier",  # deberta-v2
    "first > pre_classifier > relu > classifier",  # distilbert
    "first > classifier.dense > classifier.activation > classifier.out_proj",  # electra
    "first > classifier.dense > tanh > classifier.out_proj",  # roberta, mpnet
    "last > classification_head.dense > tanh > classification_head.out_proj",  # bart, t5: the last </s>
    "pool > head > classifier",  # modernbert
    "head > classifier",
    "sequence_summary > classifier",  # electra, multiple choice
    "last > score",  # gpt2, llama, qwen, mistral
    "score",
    "classifier",
    "qa_outputs",
    "cls.predictions.transform > cls.predictions.decoder",
    "lm_head.dense > gelu > lm_head.layer_norm > lm_head.decoder",
    "vocab_transform > activation > vocab_layer_norm > vocab_projector",
    "predictions.dense > predictions.activation > predictions.LayerNorm > predictions.decoder",
    "generator_predictions > generator_lm_head",
    "discriminator_predictions.dense > discriminator_predictions.activation"
    " > discriminator_predictions.dense_prediction",
    "lm_predictions.lm_head.dense > lm_predictions.lm_head.transform_act_fn > lm_predictions.lm_head.LayerNorm"
    " > @embeddings.word_embeddings",
    "head > decoder",
    "lm_head",
    "@pooler > cls.seq_relationship",
)
POOLS = ("first", "last", "mean")
ACTIVATIONS = ("tanh", "relu", "gelu")
