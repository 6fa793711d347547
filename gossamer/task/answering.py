"""A passage of a context that answers a question, or nothing (SQuAD; Rajpurkar et al., EMNLP 2016 and ACL 2018).

A context that is too long is read in overlapping windows; the best passage of all windows is the answer (Devlin et al.,
NAACL 2019, sections 4.2 and 4.3): the sum of its first token's start logit and its last one's end logit, over passages
of at most LONGEST tokens; nothing, where the first token of the window scores higher and nothing is allowed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from .kind import Decode, Example, Read, Said, Task

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.data import Split

LONGEST = 30  # tokens of an answer
BEST = 20  # starts and ends that are combined


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """texts are questions, pairs contexts; a label is a tuple of (answer, its first character), empty for none.

    nothing: whether a question may have no answer.  An answer is {"answer", "start", "score"}; start is -1 for none.
    """

    nothing: bool = False
    kind: ClassVar[str] = "question-answering"
    metric: ClassVar[str] = "f1"
    auto: ClassVar[str] = "AutoModelForQuestionAnswering"
    outputs: ClassVar[tuple[str, ...]] = ("start_logits", "end_logits")
    interval: ClassVar[Literal["wilson", "fisher", "bootstrap"]] = "bootstrap"
    per_text: ClassVar[bool] = False
    first_cut: ClassVar[Literal["longest_first", "only_second"]] = "only_second"
    stride: ClassVar[int] = 64

    def configure(self) -> dict[str, Any]:
        """A start and an end; whether nothing is an answer stands in the config."""
        return {"num_labels": 2, "handle_impossible_answer": self.nothing}

    def read(self, spelled: Any, text: str, pair: str | None, mask_id: int | None) -> Read:
        """note: the places of the context's tokens, and where each begins and ends; more: the later windows."""
        windows = [spelled, *spelled.overflowing]
        found = [Read(one.ids, list(one.type_ids), False, _context(one)) for one in windows]  # nothing is lost
        return found[0]._replace(more=tuple(found[1:]))

    def examples(self, read: Read, label: Any) -> list[Example]:
        """One a window; where the answer is not in it whole, its first token is to be found."""
        made = []
        for one in (read, *read.more):
            example: Example = {"input_ids": one.ids, "token_type_ids": one.types}
            if label is not None:
                start, end = _tokens(one.note, label)
                example |= {"start_positions": start, "end_positions": end}
            made.append(example)
        return made

    def fill(self, examples: Sequence[Example], width: int) -> "dict[str, Tensor]":
        """start_positions and end_positions (B,), where the examples have them."""
        import torch

        names = [name for name in ("start_positions", "end_positions") if name in examples[0]]
        return {name: torch.tensor([example[name] for example in examples]) for name in names}

    def said(self, out: Any, batch: "Mapping[str, Tensor]") -> Said:
        """logits: (2 B, T), starts and ends; those of padding so low that they do not count."""
        import torch

        away = ~batch["attention_mask"].bool()
        both = torch.cat([logits.float().masked_fill(away, -1e4) for logits in (out.start_logits, out.end_logits)])
        return Said(out.get("loss"), both)

    def errors(self, said: Said, batch: "Mapping[str, Tensor]") -> "Tensor":
        """The mean of both ends'."""
        import torch
        from torch.nn import functional as F

        ends = torch.cat([batch["start_positions"], batch["end_positions"]])
        return F.cross_entropy(said.logits, ends, reduction="none").view(2, -1).mean(0)

    def cut(self, outputs: Sequence[NDArray[Any]], row: int, read: Read) -> dict[str, Any]:
        """The best passage of one window: {"span", "score", "nothing"}."""
        places, spans = read.note
        start, end = (np.asarray(one[row], dtype=np.float64) for one in outputs)
        nothing = float(start[0] + end[0])
        if not len(places):
            return {"span": (0, 0), "score": -np.inf, "nothing": nothing}
        first, last = start[places], end[places]
        starts, ends = np.argsort(-first)[:BEST], np.argsort(-last)[:BEST]
        sums = first[starts][:, None] + last[ends][None]
        length = ends[None] - starts[:, None]
        sums = np.where((length >= 0) & (length < LONGEST), sums, -np.inf)
        i, j = np.unravel_index(int(sums.argmax()), sums.shape)
        if not np.isfinite(sums[i, j]):  # none of the best fit together: the best single token
            token = int((first + last).argmax()) if np.isfinite(first + last).all() else 0
            return {"span": tuple(spans[token]), "score": float(first[token] + last[token]), "nothing": nothing}
        span = (spans[starts[i]][0], spans[ends[j]][1])
        return {"span": span, "score": float(sums[i, j]), "nothing": nothing}

    def join(self, parts: Sequence[Any], read: Read, text: str, pair: str | None, decode: Decode | None) -> Any:
        """The best passage of all windows, by its text."""
        best = max(parts, key=lambda part: part["score"])
        score, nothing = best["score"], min(part["nothing"] for part in parts)
        if (self.nothing and nothing > score) or score == -np.inf:
            return {"answer": "", "start": -1, "score": nothing}
        start, end = best["span"]
        passage = (pair or "")[start:end]
        start += len(passage) - len(passage.lstrip())  # some tokenizers count the space before a word to it
        return {"answer": passage.strip(), "start": int(start), "score": score}

    def told(self, answer: Any) -> dict[str, Any]:
        """{"answer", "start", "score"}: a passage, its first character (-1: none), the sum of its logits."""
        return dict(answer)

    def tally(self, answers: Any, labels: Any) -> NDArray[np.float64]:
        """SQuAD's F1 of each question (of words, the best over the right answers), and one."""
        from gossamer.metrics.passages import token_f1

        both = zip(answers, labels, strict=True)
        found = [(token_f1(one["answer"], [text for text, _ in label]), 1.0) for one, label in both]
        return np.array(found, dtype=np.float64).reshape(-1, 2)

    def of_tally(self, sums: NDArray[np.float64]) -> float:
        """The mean."""
        return float(sums[0] / sums[1])

    def right(self, answers: Any, labels: Any) -> NDArray[np.int64]:
        """SQuAD's exact match."""
        from gossamer.metrics.passages import exact

        both = zip(answers, labels, strict=True)
        return np.array([exact(one["answer"], [text for text, _ in label]) for one, label in both], dtype=np.int64)

    def same(self, first: Any, second: Any) -> NDArray[np.bool_]:
        """Whether both answer with the same passage."""
        return np.array([a["answer"] == b["answer"] for a, b in zip(first, second, strict=True)], dtype=bool)

    def finite(self, answers: Any) -> NDArray[np.bool_]:
        """Whether a score is a number."""
        return np.array([bool(np.isfinite(one["score"])) for one in answers], dtype=bool)

    def fits(self, split: "Split") -> None:
        """Raise ValueError unless every question has a context."""
        if split.pairs is None:
            raise ValueError("questions without contexts; name the column of the contexts with --pair")


def _context(window: Any) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
    """The places of the context's tokens in a window, and the characters that each stands for."""
    places = [i for i, sequence in enumerate(window.sequence_ids) if sequence == 1]
    return np.array(places, dtype=np.int64), [tuple(window.offsets[i]) for i in places]


def _tokens(note: tuple[NDArray[np.int64], list[tuple[int, int]]], label: Any) -> tuple[int, int]:
    """The first and last token of the first answer, (0, 0) where it is not in the window or there is none."""
    places, spans = note
    if not label or not spans:
        return 0, 0
    text, start = label[0]
    end = start + len(text)
    if spans[0][0] > start or spans[-1][1] < end:
        return 0, 0
    first = max(i for i, span in enumerate(spans) if span[0] <= start)
    last = min(i for i, span in enumerate(spans) if span[1] >= end)
    return (int(places[first]), int(places[last])) if first <= last else (0, 0)
