"""Do teacher and student answer for the same reasons?  Which words count, by input times gradient.

The attribution of a token is the gradient of the logit of the teacher's answer with respect to the token's embedding,
times that embedding (Shrikumar et al., 2016; ours for compressed models: the survey names explainability as open and
defines no measure).  Agreement is the rank correlation of the two models' attributions over a text's tokens, and the
overlap of their most important tokens.  Integer layers pass gradients straight through.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Reasons:
    """correlation: mean Spearman over texts; overlap: mean share of the `top` tokens that both have; texts: how many.

    left_out: texts of fewer than three tokens besides the special ones, or of attributions that are all alike.
    """

    correlation: float
    overlap: float
    top: int
    texts: int
    left_out: int


def attributions(model: "nn.Module", batch: Mapping[str, "Tensor"], classes: "Tensor") -> "Tensor":
    """(B, T) input times gradient of the logits of `classes` (B,), zero on padding; the model stays as it is.

    batch: input_ids and attention_mask (B, T), perhaps more, without labels.
    """
    import torch

    from gossamer.runtime.walks import in_full

    given = {key: value for key, value in batch.items() if key not in ("labels", "index")}
    was = model.training
    try:
        with in_full(model), _embedded(model) as seen, torch.enable_grad():
            logits = model.eval()(**given).logits
            chosen = logits.gather(1, classes.to(logits.device)[:, None]).sum()
            [gradient] = torch.autograd.grad(chosen, [seen[0]])
    finally:
        model.train(was)
    return (gradient * seen[0]).sum(-1).detach() * batch["attention_mask"]


@contextmanager
def _embedded(model: "nn.Module") -> Iterator[list["Tensor"]]:
    """Inside the block, what the word table gives is a leaf that gradients reach; here it is."""
    found: list[Any] = []
    table: Any = model.get_input_embeddings()  # type: ignore[operator]

    def leaf(module: Any, args: Any, out: "Tensor") -> "Tensor":
        found.append(out.detach().requires_grad_())
        return found[-1]  # type: ignore[no-any-return]

    hook = table.register_forward_hook(leaf)
    try:
        yield found
    finally:
        hook.remove()


def reasons(
    teacher: "nn.Module", student: "nn.Module", batches: Iterable[Mapping[str, "Tensor"]], special: Sequence[int] = (),
    top: int = 3, order: Sequence[int] | None = None,
) -> Reasons:  # fmt: skip
    """How far two models that read the same tokens agree on which of them count.

    batches: input_ids, attention_mask (B, T) and what else the models read.  special: token ids that are left out.
    order: for each class of the teacher the index that the student has it at, where they differ.

    Raises:
        ValueError: `top` is not positive, or no text could be compared.
    """
    import torch

    if top < 1:
        raise ValueError(f"top={top}: expected at least 1")
    ranks, overlaps, left = list[float](), list[float](), 0
    for batch in batches:
        with torch.no_grad():
            given = {key: value for key, value in batch.items() if key not in ("labels", "index")}
            classes = teacher(**given).logits.argmax(-1)
        same = classes if order is None else torch.tensor(list(order))[classes.cpu()]
        sides = ((teacher, classes), (student, same))
        ours, theirs = (attributions(model, batch, chosen).double().cpu().numpy() for model, chosen in sides)
        ids, mask = batch["input_ids"].cpu().numpy(), batch["attention_mask"].cpu().numpy() > 0
        for row in range(len(ids)):
            words = mask[row] & ~np.isin(ids[row], list(special))
            a, b = ours[row, words], theirs[row, words]
            if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
                left += 1
                continue
            ranks.append(float(np.corrcoef(ranked(a), ranked(b))[0, 1]))
            k = min(top, len(a) - 1)
            overlaps.append(len({*np.argsort(-a, kind="stable")[:k]} & {*np.argsort(-b, kind="stable")[:k]}) / k)
    if not ranks:
        raise ValueError(f"none of {left} texts has three tokens to compare; give longer texts")
    return Reasons(float(np.mean(ranks)), float(np.mean(overlaps)), top, len(ranks), left)


def ranked(values: Any) -> Values:
    """The ranks of values, from 1; equal ones share the mean of theirs."""
    values = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse])
