"""A vector for each text, so that alike texts have alike vectors (Sentence-BERT; Reimers & Gurevych, EMNLP 2019).

The vector is the mean of the last hidden states over the text's tokens; likeness is the cosine.  It is trained as there
(section 3.1): the squared error of the cosine against the label over `top`.
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


@dataclass(frozen=True)
class SentenceEmbedding(Task):
    """Pairs of texts and how alike they are, 0 to `top`; the answer to a pair is its cosine (1,), to a text (d,)."""

    top: float = 1.0
    kind: ClassVar[str] = "sentence-embedding"
    metric: ClassVar[str] = "spearman"
    auto: ClassVar[str] = "AutoModel"
    outputs: ClassVar[tuple[str, ...]] = ("last_hidden_state",)
    interval: ClassVar[Literal["wilson", "fisher", "bootstrap"]] = "fisher"
    per_text: ClassVar[bool] = False
    apart: ClassVar[bool] = True
    bare: ClassVar[bool] = True
    numeric: ClassVar[bool] = True

    def examples(self, read: Read, label: Any) -> list[Example]:
        """One a pair: the second text's tokens are pair_ids."""
        example: Example = {"input_ids": read.ids, "token_type_ids": read.types}
        if read.more:
            example["pair_ids"] = read.more[0].ids
        return [example if label is None else example | {"labels": float(label)}]

    def collate(self, examples: Sequence[Example], pad_id: int, multiple: int = 1) -> dict[str, "Tensor"]:
        """index (B,), labels (B,); input_ids and attention_mask (2 B, T): first all the texts, then all their pairs."""
        import torch

        texts = [{k: v for k, v in e.items() if k in ("index", "input_ids")} for e in examples]
        texts += [{"index": e["index"], "input_ids": e["pair_ids"]} for e in examples if "pair_ids" in e]
        batch = super().collate(texts, pad_id, multiple)
        batch["index"] = batch["index"][: len(examples)]
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([float(example["labels"]) for example in examples])
        return batch

    def said(self, out: Any, batch: "Mapping[str, Tensor]") -> Said:
        """logits: (B, 1), the cosines of the pairs, whatever the width; of texts alone the vectors (B, d)."""
        from torch.nn import functional as F

        mask = batch["attention_mask"][..., None].to(out.last_hidden_state.dtype)
        vectors = (out.last_hidden_state * mask).sum(1) / mask.sum(1)
        if "index" in batch and len(vectors) != 2 * len(batch["index"]):
            return Said(None, vectors, numbers=True)
        cosines = F.cosine_similarity(*vectors.float().chunk(2))
        loss = F.mse_loss(cosines, batch["labels"] / self.top) if "labels" in batch else None
        return Said(loss, cosines[:, None], numbers=True)

    def errors(self, said: Said, batch: "Mapping[str, Tensor]") -> "Tensor":
        """Of each pair."""
        return (said.logits[:, 0] - batch["labels"] / self.top).square()

    def cut(self, outputs: Sequence[NDArray[Any]], row: int, read: Read) -> NDArray[np.float32]:
        """(d,)."""
        return np.asarray(outputs[0][row, : len(read.ids)].mean(0), dtype=np.float32)

    def join(self, parts: Sequence[Any], read: Read, text: str, pair: str | None, decode: Decode | None) -> Any:
        """Of a pair the cosine (1,), of a text its vector (d,)."""
        if pair is None:
            return parts[0]
        first, second = (np.asarray(part, dtype=np.float64) for part in parts)
        norm = float(np.sqrt((first @ first) * (second @ second)))
        return np.array([first @ second / norm if norm else 0.0])

    def stack(self, answers: Sequence[Any]) -> NDArray[Any]:
        """(n, 1) or (n, d)."""
        return np.stack(answers) if len(answers) else np.zeros((0, 1), np.float32)

    def told(self, answer: Any) -> dict[str, Any]:
        """{"similarity"} of a pair, {"embedding"} of a text."""
        if len(answer) == 1:
            return {"similarity": float(answer[0])}
        return {"embedding": [float(x) for x in answer]}

    def score(self, answers: Any, labels: Any) -> float:
        """Spearman's rank correlation of cosines and labels."""
        from gossamer.metrics.correlation import correlation, ranks

        return correlation(ranks(np.asarray(answers).reshape(-1)), ranks(labels))

    def fits(self, split: "Split") -> None:
        """Raise ValueError where labels have no pairs to belong to."""
        if split.labels is not None and split.pairs is None:
            raise ValueError(
                f"{self.kind} learns from pairs of texts, found texts alone; name their column with --pair"
            )
