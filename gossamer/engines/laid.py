"""A model that reads texts laid end to end (see gossamer.engines.packing), for export to a graph.

Each text attends to itself alone, by a block-diagonal mask that the graph makes from segment numbers, and counts its
own positions; a head that reads the first token reads that of each text.  So what comes out is what the model says of
each text alone.
"""

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gossamer.anatomy import head, relative
from gossamer.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "gelu": nn.functional.gelu}


class Laid(nn.Module):
    """The model as a function of input_ids, position_ids, segments (B, T), firsts (n,) and perhaps token types.

    It answers with (n, classes) for a task with one answer a text, else with what the model says of each token (B, T).

    Raises:
        ValueError: the family has positions that cannot be told to it, or a head that reads something else.
    """

    def __init__(self, model: "PreTrainedModel", task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task
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

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        segments: Tensor,
        firsts: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """(n, classes), or an output (B, T, ...) for each that the task names."""
        apart = segments[:, None, :, None] != segments[:, None, None, :]  # (B, 1, T, T)
        mask = apart.to(torch.float32) * -1e9  # far under any score, and finite where a whole row is padding
        given = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        base: Any = self.model.base_model
        x = base(input_ids=input_ids, attention_mask=mask, position_ids=position_ids, **given).last_hidden_state
        if self.task.per_text:
            x = x.flatten(0, 1).index_select(0, firsts)[:, None]  # (n, 1, d)
        for step in self.steps:
            if step == "first":
                x = x[:, 0]
            else:
                x = ACTIVATIONS[step](x) if step in ACTIVATIONS else self.model.get_submodule(step)(x)
        return tuple(x.unbind(-1)) if len(self.task.outputs) == 2 else x
