"""TernaryBERT: Distillation-aware Ultra-low Bit BERT (Zhang et al., EMNLP 2020).

Every weight is one of {-a, 0, +a}, every activation has 8 bits, from the first step; the full-precision model, as it
was before, shows the way with its hidden states, attention scores and predictions (eq. 5-7), without hard labels.
Weights are ternarized per matrix, the word table per row; `rule` is the approximation-aware TWN or the loss-aware LAT
(eq. 3).  Activations are min-max rounded as in the paper (the official code is symmetric and clips at 2.5).  Position
and segment tables, norms, biases and the last classifier stay in fp32.  The result is stored with two bits a weight.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import nn

from gossamer.anatomy import answer, blocks, embeddings, width
from gossamer.fields import Between, OneOf
from gossamer.forms import Ternary, attach, formed, round_attention, round_input, settle
from gossamer.job import Job
from gossamer.loss import Attention, Hidden, Logits
from gossamer.runtime.attention import use
from gossamer.runtime.modules import NoAttention
from gossamer.runtime.walks import Walk
from gossamer.train import Moment, Train


@dataclass(frozen=True)
class TernaryBERT:
    """Two bits a weight, eight an activation (0: activations stay as they are)."""

    rows: ClassVar[tuple[str, ...]] = ("ternarybert",)
    kind: ClassVar[str] = "settle"

    rule: Literal["twn", "exact", "lat"] = "twn"
    activation_bits: Annotated[int, OneOf(0, 4, 8)] = 8
    epochs: Annotated[float, Between(0.1, 100)] = 3.0
    lr: Annotated[float, Between(1e-6, 1e-3)] = 2e-5

    def __call__(self, job: Job) -> Iterator[Train]:
        """Attach, distil, settle."""
        model, former = job.model, deepcopy(job.model)
        found = ternarizable(model)
        if not found:
            raise ValueError("every Linear of this model is settled, so TernaryBERT finds nothing to do; leave it out")
        for linear in found:
            self.attach(linear)
            if self.activation_bits:
                round_input(linear, self.activation_bits)
        word = embeddings(model).word
        if type(word) is nn.Embedding and model.get_output_embeddings() is None:
            self.attach(word)
        heard = [a for b in blocks(model) if (a := b.part("attend")) is not None and not isinstance(a, NoAttention)]
        if self.activation_bits:
            for attend in heard:
                round_attention(attend, self.activation_bits)
            use(model)

        likeness = Logits() + Hidden(width(model), width(former))
        if heard:
            likeness = likeness + Attention()
        yield Train(
            likeness, epochs=self.epochs, lr=self.lr, teacher=former, each_step=self.look(model), name="ternary"
        )
        settle(model)

    def attach(self, module: nn.Linear | nn.Embedding) -> None:
        """Per matrix, or per row of a table; a loss-aware form has seen no curvature yet."""
        form = Ternary(self.rule, rowwise=isinstance(module, nn.Embedding))
        if self.rule == "lat":
            form.look(torch.zeros_like(module.weight))
        attach(module, form)

    def look(self, model: nn.Module) -> Any:
        """Before each step, show the loss-aware forms Adam's second moments."""

        def show(moment: Moment) -> None:
            if self.rule != "lat" or moment.optimizer is None:
                return
            for module, name, form in formed(model, Ternary):
                free = module.parametrizations[name].original  # type: ignore[index, union-attr]
                state = getattr(moment.optimizer, "optimizer", moment.optimizer).state.get(free, {})
                if "exp_avg_sq" in state:
                    form.look(state["exp_avg_sq"])  # type: ignore[operator]

        return show


def ternarizable(model: nn.Module) -> list[nn.Linear]:
    """Every plain Linear but those that give an answer, the model's own and those of walks."""
    kept = {answer(model)} | {m for way in model.modules() if isinstance(way, Walk) for m in way.modules()}
    return [m for m in model.modules() if type(m) is nn.Linear and m not in kept]
