"""Early exit: a classifier after some of the layers, and a criterion by which an example has its answer.

The two are independent: any head (gossamer.runtime.heads) goes with any criterion (gossamer.runtime.criteria).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .criteria import CRITERIA, Criterion, Memory
from .heads import HEADS, Head
from .passage import Padded, Passage, Texts
from .walks import Walk, summary


class State(NamedTuple):
    """What exits read after a step (0-based): hidden states x (b, t, d), and the texts, of which tokens may be gone."""

    step: int
    x: Tensor
    texts: Texts


class Exits(Walk):
    """Lets examples leave with the answer of an exit.

    places: after which layers the exits are, from 1 on; the last layer's answer is the model's own, or an exit's if
    `depth` is among them.  head, criterion: the names and arguments of a Head and a Criterion.  answer: the path of the
    model's last linear layer, features: how it reads hidden states (see anatomy.Head.steps).  pool: what stands for a
    text, its "first" token as in the papers, or the "mean" of its tokens, for encoders that were made for that: there
    the first token hardly reads the text before the last layers.
    """

    optional, dynamic = True, True

    def __init__(
        self,
        depth: int,
        places: list[int],
        head: dict[str, Any],
        criterion: dict[str, Any],
        threshold: float,
        features: list[str],
        answer: str,
        pool: str = "first",
    ) -> None:
        super().__init__()
        self.pool = pool
        self.depth, self.places, self.features, self.answer = depth, list(places), list(features), answer
        self.criterion, self.threshold = dict(criterion), threshold
        self.heads: Head = HEADS[head["is"]](**{k: v for k, v in head.items() if k != "is"})
        self._head = dict(head)
        self.rule: Criterion = CRITERIA[criterion["is"]](**{k: v for k, v in criterion.items() if k != "is"})
        self.balanced = False  # in training: gradient equilibrium (see `eased`)
        self.cut: Sequence[float] = ()  # in training: how likely a layer's states are cut off from the gradient
        self.watch: Callable[[State], None] | None = None  # told what exits would read where nobody leaves
        self._model: list[nn.Module] = []  # a list, so that the model does not become its own descendant

    def bind(self, model: nn.Module) -> None:
        """Remember the model, whose pooler exits may share."""
        self._model = [model]

    @property
    def head(self) -> dict[str, Any]:
        """What the head is by now: hidden states may have become narrower."""
        readers = self.heads.readers()
        now = {"width": readers[0].in_features} if readers else {}
        sizes = {"size": self.heads.size} if hasattr(self.heads, "size") else {}
        return self._head | now | sizes

    @property
    def drop(self) -> float:
        """The dropout of the model's own head."""
        config: Any = getattr(self._model[0], "config", None)
        rates = (getattr(config, name, None) for name in ("classifier_dropout", "seq_classif_dropout"))
        return float(next((r for r in rates if r is not None), getattr(config, "hidden_dropout_prob", 0.0)))

    def around(self, step: int, x: Tensor, texts: Texts) -> Tensor:
        """What the exit after this layer (0-based) is to know of each text; x (b, t, d) -> (n, ...)."""
        if self.heads.across and step + 1 in self.places:
            return self.heads.around(self.places.index(step + 1), x, texts)
        return texts.mean(x) if self.pool == "mean" and not self.heads.across else texts.firsts(x)

    def at(self, step: int, first: Tensor, memory: Memory) -> tuple[Tensor, Tensor] | None:
        """Logits and features of the exit after a layer, None where there is none; first: (n, ...), of each text."""
        self.heads.look(step, first, memory)
        if step + 1 not in self.places:
            return None
        found: tuple[Tensor, Tensor] = self.heads(self.places.index(step + 1), first, memory, self._model[0], self.drop)
        return found

    def every(self, states: Sequence[State]) -> list[tuple[Tensor, Tensor]]:
        """Logits and features of every exit, from what exits read after each layer (gossamer.trace)."""
        memory, found = Memory(), list[tuple[Tensor, Tensor]]()
        for step, x, texts in states:
            said = self.at(step, self.around(step, x, texts), memory)
            found += [said] if said is not None else []
        return found

    def depart(self, passage: Passage) -> None:
        """Let those go who are certain enough; after the last layer everybody, if that is for the exits to say."""
        if self.training or self.whole:
            self._pass(passage)
            return
        step, memory, last = passage.step, passage.memory, passage.step == self.depth - 1
        asked = not last or step + 1 in self.places
        said = self.at(step, self.around(step, passage.x, passage), memory) if asked else None
        if said is None and not (last and self.rule.concludes):
            return
        logits, features = said or self._own(passage.firsts(passage.x))
        i = self.places.index(step + 1) if said else len(self.places)
        score = self.rule.score(i, logits, features, memory)
        who = torch.ones_like(passage.finished) if last else self.rule.certain(score, self.threshold)
        passage.answer(self.rule.answer(logits, memory), who)

    def _pass(self, passage: Passage) -> None:
        """Nobody leaves; who watches is told what the exit would read."""
        step, place = passage.step, passage.step + 1
        if self.training and step < len(self.cut) and float(torch.rand(())) < self.cut[step]:
            passage.x = passage.x.detach()
        read = passage.x
        if self.training and self.balanced and place in self.places:
            above = self.above(place)
            read, passage.x = eased(read, 1 / (above + 1)), eased(read, above / (above + 1))
        if self.watch is not None:
            self.watch(State(step, read, Padded(passage.living, read)))

    def above(self, place: int) -> int:
        """How many answers there are after that of an exit, the model's own among them."""
        return sum(p > place for p in {*self.places, self.depth})

    def summary(self, x: Tensor) -> Tensor:
        """What the model's own last linear reads of hidden states, (b, t, d)."""
        return summary(self._model[0], self.features, x)

    def _own(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """The model's own answer."""
        seen = self.summary(first[:, None])
        return self._model[0].get_submodule(self.answer)(seen), seen

    def stops(self, step: int) -> bool:
        """After those of the places where somebody can leave."""
        return step + 1 in self.places[self.rule.earliest() :] and step < self.depth - 1


def eased(x: Tensor, share: float) -> Tensor:
    """The same, with only a share of the gradient.

    Gradient equilibrium (Li et al., ICCV 2019; ElasticBERT, Liu et al., NAACL 2022): with a share of k / (k + 1) of
    what comes from the k answers above, and 1 / (k + 1) of what comes from an exit, a layer's gradient is the mean over
    its answers, and does not grow with their number.
    """
    return x * share + x.detach() * (1 - share)
