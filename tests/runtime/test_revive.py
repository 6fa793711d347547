"""How transformers finds a compressed model, and what comes back: the family's own class, as it was saved."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

from gossamer.runtime import revive
from gossamer.runtime.changes import build, changes, describe, replay
from gossamer.runtime.modules import IntEmbedding, IntLinear, LowRank, Nothing, TernaryLinear
from gossamer.runtime.walks import Shared, Stack, TokenThreshold
from gossamer.walking import walk
from tests import small, tiny

FAMILIES = [name for name in tiny.FAMILIES if tiny.offers(name, "classes")]


@torch.no_grad()
def rounded(model: nn.Module, head: str) -> nn.Module:
    """Every Linear but the head in eight bits."""
    for path, module in list(model.named_modules()):
        if type(module) is nn.Linear and head not in path:
            scale = module.weight.abs().amax(1, keepdim=True).clamp_min(1e-8) / 127
            model.set_submodule(path, IntLinear.of(module, (module.weight / scale).round().to(torch.int8), scale))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back(family: str, tmp_path: Path) -> None:
    model = tiny.build(family, "classes")
    found = [m for m in model.modules() if type(m) is nn.Linear]
    if len(found) <= 2:
        pytest.skip("its matrices are not Linears")
    rounded(model, "classif" if "classif" in dict(model.named_modules()).__str__() else "score")
    given = tiny.batch(model)
    with torch.no_grad():
        before = model(**given).logits
    revive.write(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["base_model_type"]) == ("gossamer", model.config.model_type)
    read = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.allclose(read(**given).logits, before, atol=1e-6)
    assert isinstance(read, type(model)) and type(read).__name__ == type(model).__name__
    assert read.config.model_type == model.config.model_type and changes(read) == changes(model)


PARTS = [
    nn.Linear(3, 5, bias=False), nn.Embedding(7, 3, padding_idx=1), nn.LayerNorm(6, eps=1e-7), nn.Identity(),
    LowRank(4, 2, 6), IntLinear(4, 6, False), IntEmbedding(5, 3), TernaryLinear(5, 3, True, 4), Nothing(4, True),
    Shared([0, 1, 0]), tiny.patience(["first"], 3, 8, 2, 1, 0.5), TokenThreshold(3, 0.2, 0.1),
]  # fmt: skip


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_a_part_is_described_and_built_again(part: nn.Module) -> None:
    told = describe(part)
    assert told is not None and json.loads(json.dumps(told)) == told
    made = build(json.loads(json.dumps(told)))
    assert type(made) is type(part) and describe(made) == told
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (part, made)]
    assert shapes[0] == shapes[1]


def test_what_is_not_ours_is_not_described() -> None:
    assert describe(nn.Conv1d(1, 1, 1)) is None and describe(small.model()) is None
    with pytest.raises(ValueError, match="contains a 'Nope', which this version does not know"):
        build({"is": "Nope"})


def test_nothing_differs_from_a_blank_model() -> None:
    for family in FAMILIES:
        assert changes(tiny.build(family, "classes")) == {}, family


def test_changes_inside_a_walk_are_seen(tmp_path: Path) -> None:
    """Exits that were rounded, layers under a stack that were factored."""
    model = small.model()
    walk(model, Shared([0, 0, 1, 1]), list(model.bert.encoder.layer)[:2])
    walk(model, tiny.patience(["bert.pooler"], 4, 32, 2, 1))
    model.bert.encoder.layer.layers[1].output.dense = LowRank(64, 4, 32)
    rounded(model, "classifier")
    told = changes(model)
    assert told["bert.encoder.layer"]["layers"] == 2 and len(told["bert.encoder.layer"]["walks"]) == 2
    assert told["bert.encoder.layer.walks.1.heads.linear.0"]["is"] == "IntLinear"
    assert told["bert.encoder.layer.1.output.dense"]["is"] == "LowRank"
    blank = replay(type(model)(model.config), json.loads(json.dumps(told)))
    assert changes(blank) == told and blank.state_dict().keys() == model.state_dict().keys()
    assert isinstance(blank.bert.encoder.layer, Stack)
    expected = small.logits(model)
    revive.write(model, tmp_path)
    read: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.allclose(small.logits(read), expected, atol=1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("revive")
    revive.write(rounded(small.model(), "classifier"), place)
    return place


def test_the_config_says_what_it_is(folder: Path) -> None:
    config: Any = AutoConfig.from_pretrained(folder)
    assert isinstance(config, revive.Config) and config.base_model_type == "bert" and config.num_labels == 2
    assert type(config.plain) is transformers.BertConfig and config.plain.hidden_size == 32
    assert not any(hasattr(config.plain, name) for name in ("gossamer", "base_model_type", "auto_map"))


def test_other_doors(folder: Path) -> None:
    base = AutoModel.from_pretrained(folder).eval()
    assert type(base).__name__ == "BertModel"
    whole = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    given = small.batch()
    with torch.no_grad():
        assert torch.equal(base(**given).last_hidden_state, whole.bert(**given).last_hidden_state)
    with pytest.raises(ValueError, match="has no model for AutoModelForSeq2SeqLM"):
        transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    other = AutoModelForTokenClassification.from_pretrained(folder)  # a new head on what was compressed, as ever
    assert any(isinstance(m, IntLinear) for m in other.modules())
    blank = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder))
    assert any(isinstance(m, IntLinear) for m in blank.modules())


def test_a_base_model_gets_a_head(folder: Path, tmp_path: Path) -> None:
    base = AutoModel.from_pretrained(folder).eval()
    base.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertModel"]
    headed = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    given = small.batch()
    with torch.no_grad():
        assert torch.equal(headed.bert(**given).last_hidden_state, base(**given).last_hidden_state)
    assert type(headed.classifier) is nn.Linear


def test_exits_need_their_head(tmp_path: Path) -> None:
    model = small.model()
    walk(model, tiny.patience(["bert.pooler"], 4, 32, 2, 1))
    revive.write(model, tmp_path)
    with pytest.raises(ValueError, match=r"stops early by what its head answers.* load it as \['BertForSeq"):
        AutoModel.from_pretrained(tmp_path)


def test_options_of_from_pretrained_are_kept(folder: Path) -> None:
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and type(model).__name__ == "BertForSequenceClassification"
    half = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.classifier.weight.dtype == torch.bfloat16
    codes = half.bert.encoder.layer[0].output.dense.codes
    assert codes.dtype == torch.int8


def test_registering_twice_does_no_harm() -> None:
    revive.register()
    revive.register()


def test_a_rewriting_that_is_cut_off_leaves_nothing_that_loads_wrong(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any file that it moves, the folder either refuses to load or answers right."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    given, moved = small.batch(), os.replace
    with torch.no_grad():
        right = model(**given).logits
    for last in range(30):
        place = tmp_path / str(last)
        shutil.copytree(folder, place)
        count = iter(range(100))

        def move(source: Any, target: Any, count: Any = count, last: int = last) -> None:
            if next(count) == last:
                raise KeyboardInterrupt
            moved(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(revive.os, "replace", move)
            try:
                model.save_pretrained(place)
            except KeyboardInterrupt:
                with pytest.raises((OSError, ValueError)):
                    AutoModelForSequenceClassification.from_pretrained(place)
                assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
                continue
        with torch.no_grad():
            assert torch.equal(AutoModelForSequenceClassification.from_pretrained(place)(**given).logits, right)
        return
    raise AssertionError("the writing never ended")


def test_weights_of_a_walk_that_the_config_has_lost_are_refused(tmp_path: Path) -> None:
    model = small.model()
    walk(model, TokenThreshold(4, 0.3))
    revive.write(rounded(model, "classifier"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["gossamer"] = {path: told for path, told in config["gossamer"].items() if "walks" not in told}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"does not hold the weights that its config describes: .*delta"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)
