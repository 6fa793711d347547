"""SkipBERT: Efficient Inference with Shallow Layer Skipping (Wang, Chen, Chen, Shou & McAuley, ACL 2022).

The lower half of the model sees three tokens at a time (section 3.1): what it makes of a trigram depends on nothing
else, so it can be computed once for all and looked up, and the lower layers are skipped.  First the whole learns from
its former self, by attention and hidden states (general distillation); then the table is made, and the upper half
learns on it, at first by hidden states alone, then by the former self's answers as well (section 3.4).  The paper's
students have layers of their own above, which learn the attention of evenly spaced layers; here they are the model's,
and learn their own.  Exits on the upper half come of any other method after this one: then(SkipBERT(), RightTool()).
The paper trains longer, 5 and 20 epochs.

The table is large (3 bytes a dimension and entry) and counts in the artefact's size.  As there, what it does not hold
is looked up as a pair, and as a word alone; with misses="compute" the lower layers stay and compute it, on torch only,
where the authors' code computes a whole batch anew.  Lower layers that compute cost three times what they did.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import nn

from gossamer.anatomy import blocks, embeddings, layers, loop, width
from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import Attention, Hidden, Logits
from gossamer.runtime.trigrams import Trigrams, chosen
from gossamer.train import Train
from gossamer.walking import BY_EXAMPLE


@dataclass(frozen=True)
class SkipBERT:
    """A table of trigrams in place of lower layers.

    shallow: how many layers (0: half of them).  entries: of the table.  masking: how many trigrams pass for unknown
    while the upper half learns.  beta: weight of attention and hidden states beside the answers.
    """

    rows: ClassVar[tuple[str, ...]] = ("skipbert",)
    kind: ClassVar[str] = "table"

    shallow: Annotated[int, Between(0, 47)] = 0
    entries: Annotated[int, Between(1, 10_000_000)] = 100_000
    misses: Literal["back off", "compute"] = "back off"
    masking: Annotated[float, Between(0.0, 1.0)] = 0.1
    beta: Annotated[float, Between(0.0, 10.0)] = 0.1
    general_epochs: Annotated[float, Between(0.0, 100)] = 3.0
    warm_epochs: Annotated[float, Between(0.0, 100)] = 2.0
    epochs: Annotated[float, Between(0.1, 100)] = 4.0
    general_lr: Annotated[float, Between(1e-6, 1e-2)] = 5e-4
    lr: Annotated[float, Between(1e-6, 1e-3)] = 2e-5

    def __call__(self, job: Job) -> Iterator[Train]:
        """Learn to see three tokens, make the table, learn on it."""
        count = self.shallow or len(blocks(job.model)) // 2
        able(job.model, count)
        former = deepcopy(job.model)
        table = install(job, count)
        likeness: Any = Attention(below=count) + Hidden(width(job.model), width(former), below=count)
        if self.general_epochs:
            yield Train(likeness, epochs=self.general_epochs, lr=self.general_lr, teacher=former, name="three tokens")
        if not job.dry:
            self.write(job, table)
        if self.warm_epochs:
            yield Train(
                likeness, epochs=self.warm_epochs, lr=self.lr, teacher=former, without=[table], name="hidden states"
            )
        both = Logits() + self.beta * likeness
        yield Train(both, epochs=self.epochs, lr=self.lr, teacher=former, without=[table], name="answers")
        table.masking = 0.0

    def write(self, job: Job, table: Trigrams) -> None:
        """Make the table from the training texts."""
        job.tell("computing the table", 0.0)
        texts = [example[key] for example in job.train for key in ("input_ids", "pair_ids") if key in example]
        picked = torch.from_numpy(chosen(texts, table.padding, self.entries, table.num_embeddings))
        table.fill(picked.to(table.place.device))
        if self.misses == "back off":
            table.settle()
            table.masking = self.masking


def able(model: nn.Module, count: int) -> None:
    """Raise ValueError unless the model's lower layers can be taken from it."""
    family, stored = str(model.config.model_type), len(blocks(model))  # type: ignore[union-attr]
    if family not in BY_EXAMPLE or getattr(model.config, "is_decoder", False):
        raise ValueError(
            f"SkipBERT does not know the embeddings of {family}; use it on one of: {', '.join(BY_EXAMPLE)}"
        )
    if not 0 < count < stored:
        raise ValueError(
            f"found {stored} layers and {count} to skip, expected some of both kinds; type SkipBERT(shallow=1), on a "
            "model of at least 2 layers"
        )
    front = embeddings(model)
    if model.get_output_embeddings() is not None:  # type: ignore[operator]
        raise ValueError("SkipBERT puts a table in place of the words, and this model writes with the same words")
    if type(front.word) is not nn.Embedding:
        found = type(front.word).__name__
        raise ValueError(f"SkipBERT reads words from a plain table, found {found}; put SkipBERT first")
    if front.word.embedding_dim != width(model):
        raise ValueError(
            f"SkipBERT reads words as wide as the layers, found {front.word.embedding_dim} beside {width(model)}"
        )


@torch.no_grad()
def install(job: Job, count: int) -> Trigrams:
    """Move the lower layers of a model in front of it, and return what holds them."""
    model = job.model
    front, path, stored = embeddings(model), loop(model), list(layers(model))
    word: Any = front.word
    base = getattr(model, "base_model_prefix", "")
    table = Trigrams(
        word.num_embeddings, word.embedding_dim, job.pad_id, count,
        f"{path.removeprefix(base + '.')}.0", eps=front.norm.eps,  # type: ignore[union-attr,arg-type]
    ).to(word.weight.device)  # fmt: skip
    table.word.load_state_dict(word.state_dict())
    table.norm.load_state_dict(front.norm.state_dict())  # type: ignore[union-attr]
    first = job.pad_id + 1 if str(model.config.model_type) in ("roberta", "xlm-roberta") else 0
    position: Any = front.position
    table.place.copy_(position.weight[first : first + 3])
    if front.token_type is not None:
        types: Any = front.token_type
        table.place.add_(types.weight[0])
    nn.init.normal_(table.gate.weight, std=0.02)
    nn.init.zeros_(table.gate.bias)
    table.lower = nn.ModuleList(stored[:count])
    model.set_submodule(next(name for name, module in model.named_modules() if module is word), table)
    model.set_submodule(path, nn.ModuleList(stored[count:]))
    model.config.num_hidden_layers = len(stored) - count
    return table
