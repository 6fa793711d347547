import os

import pytest
import torch
from torch import nn

from gossamer.measure import size
from gossamer.runtime.modules import IntEmbedding, IntLinear, TernaryLinear


def test_every_weight_of_a_plain_model_counts(bert):
    model = bert()
    assert size.parameters(model) == sum(p.numel() for p in model.parameters())


def test_published_sizes():
    from transformers import AlbertConfig, AlbertModel, BertConfig, BertModel

    with torch.device("meta"):
        assert size.parameters(BertModel(BertConfig())) == 109_482_240
        albert = AlbertConfig(hidden_size=768, num_attention_heads=12, intermediate_size=3072)
        assert size.parameters(AlbertModel(albert)) == 11_683_584


def test_shared_weights_count_once():
    one = nn.Linear(4, 3)
    tied = nn.Linear(4, 3)
    tied.weight = one.weight
    view = nn.Linear(4, 3)
    view.weight = nn.Parameter(one.weight.data.view(3, 4))  # another tensor over the same storage
    assert size.parameters(nn.ModuleList([one, one])) == 15
    assert size.parameters(nn.ModuleList([one, tied, view])) == 12 + 3 * 3


def test_integers_and_packed_weights_count_as_weights():
    model = nn.ModuleList([IntLinear(8, 6), IntEmbedding(10, 8), TernaryLinear(8, 6, biased=False), nn.Linear(2, 2)])
    assert size.parameters(model) == (48 + 6) + 80 + 48 + 6
    again = nn.ModuleList([model[0], nn.Sequential(model[0])])
    assert size.parameters(again) == 54
    twin = IntLinear(8, 6)
    twin.codes = model[0].codes
    assert size.parameters(nn.ModuleList([model[0], twin])) == 54


def test_codes_count_where_no_module_speaks_for_them():
    module = nn.Module()
    module.register_buffer("codes", torch.zeros(3, 5, dtype=torch.int8))
    module.register_buffer("scale", torch.ones(3, 1))
    module.register_buffer("position_ids", torch.arange(9))
    assert size.parameters(module) == 15


def test_bytes_in_memory():
    shared = nn.Linear(4, 3)
    model = nn.ModuleList([shared, shared, IntLinear(8, 6)])
    assert size.tensor_bytes(model) == 4 * 15 + (48 + 4 * 6 + 4 * 6)
    model.register_buffer("position_ids", torch.arange(100), persistent=False)
    assert size.tensor_bytes(model) == 4 * 15 + (48 + 4 * 6 + 4 * 6)


def write(folder, **files):
    for name, count in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * count)


def test_only_what_an_engine_reads_is_needed(tmp_path):
    write(tmp_path, config_dot_json=1, tokenizer_dot_json=2, tokenizer_config_dot_json=4, vocab_dot_txt=8)
    write(tmp_path, model_dot_safetensors=100, pytorch_model_dot_bin=1000, optimizer_dot_pt=10_000, runs__log_dot_txt=5)
    write(tmp_path, model_dot_onnx=200, README_dot_md=16, report_dot_json=32, trainer_state_dot_json=64)
    assert size.needed_bytes(tmp_path, "torch") == 115
    assert size.needed_bytes(tmp_path, "transformers eager fp32") == 115
    assert size.needed_bytes(tmp_path, "onnxruntime") == 215
    assert size.folder_bytes(tmp_path) == 115 + 200 + 16 + 32 + 64 + 1000 + 10_000 + 5
    (tmp_path / "model.onnx").write_bytes(b"x" * 50 + b"model.safetensors" + b"x" * 133)  # its weights are over there
    assert size.needed_bytes(tmp_path, "onnxruntime") == 315


def test_old_weights_and_shards(tmp_path):
    write(tmp_path, config_dot_json=1, pytorch_model_dot_bin=100)
    assert size.needed_bytes(tmp_path, "torch") == 101
    for i in (1, 2):
        (tmp_path / f"model-0000{i}-of-00002.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "model.safetensors.index.json").write_bytes(b"x" * 7)
    assert size.needed_bytes(tmp_path, "torch") == 2008


def test_a_hard_link_counts_once(tmp_path):
    write(tmp_path, a=50)
    os.link(tmp_path / "a", tmp_path / "b")
    assert size.folder_bytes(tmp_path) == 50


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder; expected an artefact"):
        size.folder_bytes(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no weights for onnxruntime; expected model\.onnx"):
        size.needed_bytes(tmp_path, "onnxruntime")
