"""A model that reads texts laid end to end (see gossamer.engines.packing): to be exported.

Each text attends to itself alone, by a block-diagonal mask that the graph makes from segment numbers, and counts its
own positions; a head that reads the first token reads that of each text.  So what comes out is what the model says of
each text alone.

Where the way depends on the text, it is cut into stages wherever texts may have their answer (after a layer) or tokens
may leave (after an attention).  A stage ends in the hidden states and in what the walks decide: who is done, with which
answer, and which tokens stay.  The way is exported once, with everything that its stages end in, and the graph is cut
there (gossamer.engines.graph).  Whoever runs the stages (gossamer.engines.course) lets them go and lays out the rest.
"""

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from gossamer.anatomy import head, loop, relative
from gossamer.engines.course import MEMORY, NEXT
from gossamer.runtime.attention import Heard, listening
from gossamer.runtime.exits import Exits
from gossamer.runtime.passage import Passage
from gossamer.runtime.trigrams import end_to_end
from gossamer.runtime.walks import Stack, TokenThreshold, stack_of, summary
from gossamer.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Given = dict[str, Tensor]


class Cut(NamedTuple):
    """A place on the way: after so many layers, and then after the attention of the next if `half`.

    Whoever is asked before the next layer has been asked before the cut.
    """

    step: int
    half: bool


class Watched(Passage):
    """A passage that lets nobody go, but notes who would, in operations that a graph can hold.

    places (n,): of each text's first token among all those laid out; owners (R * T,): a number for each of these, the
    same in one text; mask (R, 1, T, T): what each sees; lasting (R, T): how long their texts were in the beginning.
    """

    kept: Tensor | None = None
    lasting: Tensor | None = None
    places: Tensor | None = None
    owners: Tensor | None = None
    mask: Tensor | None = None

    @property
    def shown(self) -> Tensor | None:
        """The mask."""
        return self.mask

    @property
    def entire(self) -> Tensor:
        """As it was told."""
        assert self.lasting is not None, "it is asked for texts, not for tokens"
        return self.lasting

    @property
    def peers(self) -> Tensor:
        """By the mask, (R, T, T)."""
        assert self.mask is not None
        return self.mask[:, 0] > -1

    def firsts(self, x: Tensor) -> Tensor:
        """(R, T, ...) -> (n, ...)."""
        assert self.places is not None, "it is asked for tokens, not for texts"
        return x.flatten(0, 1).index_select(0, self.places)

    def mean(self, x: Tensor) -> Tensor:
        """(R, T, d) -> (n, d): one product, where the mask would have it made for every token."""
        assert self.owners is not None and self.places is not None, "it is asked for texts, not for tokens"
        mine = self.owners.index_select(0, self.places)[:, None] == self.owners  # (n, R * T)
        weights = mine.to(x.dtype)
        return weights @ x.flatten(0, 1) / weights.sum(1, keepdim=True)

    def found(self, query: Tensor, x: Tensor) -> Tensor:
        """Query (n, heads, d), x (R, T, d) -> (n, heads, d): each text's own row of tokens is enough."""
        assert self.owners is not None and self.places is not None, "it is asked for texts, not for tokens"
        row, whose = self.places // x.shape[1], self.owners.index_select(0, self.places)
        mine = self.owners.view(x.shape[:2]).index_select(0, row) == whose[:, None]  # (n, T)
        x = x.index_select(0, row)
        hidden = (~mine).to(x.dtype) * -1e9
        return (query @ x.transpose(1, 2) + hidden[:, None]).softmax(-1) @ x

    def answer(self, logits: Tensor, who: Tensor) -> None:
        """Note the answers of texts that have none yet."""
        who = who & ~self.finished
        before = torch.zeros_like(logits) if self.answers is None else self.answers
        self.answers = torch.where(who[:, None], logits, before)
        self.finished = self.finished | who

    def drop(self, keep: Tensor, leave: bool) -> None:
        """Note which tokens stay; (R, T)."""
        self.keep_tokens(keep)

    def keep_tokens(self, keep: Tensor) -> None:
        """Note which tokens stay; (R, T)."""
        self.kept = keep & self.valid if self.kept is None else self.kept & keep


def cuts(model: "PreTrainedModel", task: Task) -> list[Cut]:
    """Where the way of this model is to be cut, [] where it is the same for every text.

    Where each token is answered for and some leave on the way, the head is a stage of its own: it reads them all.

    Raises:
        ValueError: some walk needs to know what a stage cannot.
    """
    stack = stack_of(model)
    walks = [walk for walk in stack.walking if walk.dynamic] if stack is not None else []
    if stack is None or not walks:
        return []
    for walk in walks:
        if isinstance(walk, TokenThreshold) and walk.length is None:
            raise ValueError("TokenThreshold measures by the length of each text, as only the first artefacts did")
    depth = len(stack.order)
    drops = [any(walk.drops(step) for walk in walks) for step in range(depth)]
    if any(drops) and not stack.midpoint:
        raise ValueError(f"the layers of {model.config.model_type} have no place between attention and feed-forward")
    found = list[Cut]()
    for step in range(depth):
        found += [Cut(step, False)] if any(walk.skips(step) for walk in walks) and Cut(step, False) not in found else []
        found += [Cut(step, True)] if drops[step] else []
        found += [Cut(step + 1, False)] if step < depth - 1 and any(walk.stops(step) for walk in walks) else []
    return [*found, Cut(depth, False)] if found and not task.per_text else found


class Way(nn.Module):
    """The whole way of texts laid end to end, as a function of tensors by name; what its stages end in is noted.

    It reads input_ids and perhaps token_type_ids, segments and position_ids (R, T), firsts (n,), threshold () where
    there are exits, and lengths (R, T) (of the tokens' texts in the beginning) where the way depends on the text.  It
    answers with (n, classes) for a task with one answer a text, else with what the model says of each token
    (R, T, ...).  Where stage i ends it notes, as `of(i, name)`, next.x (R, T, d), keep (R, T), done (n,), logits
    (n, classes) and next.memory.* (n, ...), as far as there are such; the next stage begins with what is called next,
    and with nobody gone.

    Raises:
        ValueError: the family has positions that cannot be told to it, or a head that reads something else.
    """

    def __init__(self, model: "PreTrainedModel", task: Task) -> None:
        super().__init__()
        self.model, self.task, self.cuts = model, task, cuts(model, task)
        base: Any = model.base_model
        if "position_ids" not in inspect.signature(base.forward).parameters or relative(model) is not None:
            raise ValueError(f"{model.config.model_type} cannot be told the positions of tokens")
        if getattr(model.config, "is_decoder", False) or getattr(model.config, "sliding_window", None):
            raise ValueError(f"{model.config.model_type} has a mask of its own")
        self.steps: list[str] = []
        if not task.bare:
            found = head(model)
            self.steps = [*found.steps, found.answer_path]
        reads = [step for step in self.steps if step in ("first", "last", "mean")]
        if task.per_text and reads not in ([], ["first"]):
            raise ValueError(f"the head of this {model.config.model_type} reads {reads[0]}, expected the first token")

    def forward(self, given: Given) -> Given:
        """The answers, and what each stage ends in."""
        segments = given["segments"]
        apart = segments[:, None, :, None] != segments[:, None, None, :]  # (R, 1, T, T)
        mask = apart.to(torch.float32) * -1e9  # far under any score, and finite where a whole row is padding
        told: Given = {"attention_mask": mask, "position_ids": given["position_ids"]}
        told |= {name: given[name] for name in ("input_ids", "token_type_ids") if name in given}
        base: Any = self.model.base_model
        if not self.cuts:
            with end_to_end(segments):
                return self._answers(base(**told).last_hidden_state, given, None)
        stack, path = stack_of(self.model), loop(self.model)
        assert stack is not None
        watch = Watch(stack, self.cuts, given, mask)
        self.model.set_submodule(path, watch)
        exits = [(walk, walk.threshold) for walk in stack.walking if isinstance(walk, Exits)]
        for walk, _ in exits:
            walk.threshold = given["threshold"]  # type: ignore[assignment]  # for whoever runs the stage to choose
        try:
            with end_to_end(segments):
                x = base(**told).last_hidden_state
        finally:
            self.model.set_submodule(path, stack)
            for walk, before in exits:
                walk.threshold = before
        notes = {of(i, name): value for i, said in enumerate(watch.said) for name, value in said.items()}
        return notes | self._answers(x, given, watch.texts.answers)

    def _answers(self, x: Tensor, given: Given, answers: Tensor | None) -> Given:
        """What the head says of the last hidden states (R, T, d), or a walk after the last layer in its place."""
        if answers is not None:
            return {self.task.outputs[0]: answers}
        if self.task.per_text:
            x = x.flatten(0, 1).index_select(0, given["firsts"])[:, None]  # (n, 1, d)
        x = summary(self.model, self.steps, x)
        outputs = x.unbind(-1) if len(self.task.outputs) == 2 else (x,)
        return dict(zip(self.task.outputs, outputs, strict=True))


def of(stage: int, name: str) -> str:
    """What a whole way calls something that one of its stages ends in."""
    return f"{stage}.{name}"


class Watch(nn.Module):
    """Stands where a model has its stack, for the time of one call: lets nobody go, and notes at the cuts who would."""

    def __init__(self, stack: Stack, cuts: list[Cut], given: Given, mask: Tensor) -> None:
        super().__init__()
        self.layers, self.order, self.walks, self.midpoint = stack.layers, stack.order, stack.walking, stack.midpoint
        self.cuts, self.said, self.x = cuts, list[Given](), torch.empty(0)
        empty = torch.zeros(given["firsts"].shape[0], dtype=torch.int64)  # len() would fix it
        self.nobody = empty != 0
        self.texts = Watched(self.x, {}, empty, empty[:, None], empty[:, None] == 0, empty + 1, self.nobody)
        self.texts.places, self.texts.mask = given["firsts"], mask
        segments, places = given["segments"], given["position_ids"]
        rows = torch.arange(segments.shape[0])[:, None] * (segments.shape[1] + 1)
        self.texts.owners = (segments + rows).flatten()
        seen = segments > 0
        places = places - places.min()  # some families begin to count later
        self.tokens = Watched(self.x, {}, empty, places, seen, seen.sum(1), self.nobody)
        self.tokens.mask, self.tokens.lasting = mask, given["lengths"]

    def __iter__(self) -> Iterator[Any]:
        yield self.run

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, i: Any) -> Any:
        return [self.run] if isinstance(i, slice) else self.layers[i]

    def run(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the family's loop calls once: all the layers, in their order."""
        self.x, out = x, x
        for step, index in enumerate(self.order):
            self._enter(step)
            self._end(Cut(step, False))
            out = self._layer(self.layers[index], step, args, kwargs)
            self.x = out[0] if isinstance(out, tuple) else out
            self._depart(step)
        self._end(Cut(len(self.order), False))
        return out

    def _enter(self, step: int) -> None:
        """Before a layer: ask the walks which tokens go."""
        self.tokens.x, self.tokens.step = self.x, step
        for walk in self.walks:
            walk.enter(self.tokens)

    def _layer(self, layer: nn.Module, step: int, args: Any, kwargs: Any) -> Any:
        """The output of a layer, on whose way the walks are asked."""
        heard: list[Heard] = []

        def ask(sublayer: nn.Module, given: Any, out: Any) -> None:
            self.x = self.tokens.x = out[0] if isinstance(out, tuple) else out
            self.tokens.step = step
            for walk in self.walks:
                walk.between(self.tokens, heard[-1] if heard else None)
            self._end(Cut(step, True))

        hook = layer.get_submodule(self.midpoint).register_forward_hook(ask) if self.midpoint else None
        try:
            with listening(heard.append):
                return layer(self.x, *args, **kwargs)
        finally:
            if hook is not None:
                hook.remove()

    def _depart(self, step: int) -> None:
        """After a layer: ask the walks who is done; what they keep of each text is (n, ...)."""
        self.texts.x, self.texts.step = self.x, step
        for walk in self.walks:
            walk.depart(self.texts)

    def _end(self, here: Cut) -> None:
        """Where the way is cut: note what the stage ends in; the next one begins with nobody gone."""
        if here not in self.cuts:
            return
        said = {NEXT + "x": self.x}
        if self.tokens.kept is not None:
            said["keep"] = self.tokens.kept
        if self.texts.answers is not None:
            said |= {"done": self.texts.finished, "logits": self.texts.answers}
        self.said.append(said | {NEXT + MEMORY + name: value for name, value in self.texts.memory.items()})
        self.tokens.kept = self.texts.answers = None  # whoever has left is not there any more
        self.texts.finished = self.nobody  # not zeros like it: the next stage has nothing to ask its size of
