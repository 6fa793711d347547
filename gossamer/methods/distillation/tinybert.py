"""TinyBERT: Distilling BERT for Natural Language Understanding (Jiao et al., Findings of EMNLP 2020).

A narrower, shallower student first imitates the teacher's embeddings, hidden states and attention scores, layer by
evenly spaced layer (eq. 7-9); only then its predictions (eq. 10).  General distillation does the first of this with the
teacher as it was before fine-tuning, task distillation with the fine-tuned one.  One projection serves embeddings and
all layers and both stages, as in the official code; the teacher is in evaluation mode, unlike there.  Without a corpus
of its own, general distillation reads the training texts; where student and teacher are equally wide, the student
starts from its first teacher's evenly spaced layers.  Task distillation is without the paper's data augmentation.
"""

import logging
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch

from gossamer.anatomy import blocks, loop, towers, width
from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import Attention, Hidden, Logits, Task
from gossamer.runtime.changes import plain_class
from gossamer.task import Regression, SentenceEmbedding
from gossamer.train import Train

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TinyBERT:
    """Two-stage distillation into a new student.  hidden 0: the teacher's width; feed_forward 0: four times hidden.

    The paper's TinyBERT4 is TinyBERT(feed_forward=1200).
    """

    rows: ClassVar[tuple[str, ...]] = ("tinybert",)
    kind: ClassVar[str] = "begin"

    layers: Annotated[int, Between(1, 48)] = 4
    hidden: Annotated[int, Between(0, 4096)] = 312
    feed_forward: Annotated[int, Between(0, 16384)] = 0
    heat: Annotated[float, Between(0.5, 20)] = 1.0
    general_epochs: Annotated[float, Between(0.0, 100)] = 3.0
    intermediate_epochs: Annotated[float, Between(0.1, 100)] = 10.0
    prediction_epochs: Annotated[float, Between(0.1, 100)] = 3.0
    lr: Annotated[float, Between(1e-6, 1e-3)] = 5e-5

    def __call__(self, job: Job) -> Iterator[Train]:
        """General, intermediate, prediction."""
        general = self.general_epochs > 0 and job.pretrained is not None
        if self.general_epochs and not general:
            log.warning("TinyBERT without general distillation: the model has been fine-tuned already, and as it was "
                        "before is not at hand; general_epochs=0 says so")  # fmt: skip
        job.model = self.student(job.teacher, job.pretrained if general else job.teacher)
        likeness = Hidden(width(job.model), width(job.teacher))
        if general:
            yield Train(
                likeness + Attention(), self.general_epochs, self.lr, teacher=job.pretrained,
                name="general distillation",
            )  # fmt: skip
        yield Train(
            likeness + Attention(), self.intermediate_epochs, self.lr, schedule="constant", warmup=0.0,
            name="intermediate",
        )  # fmt: skip
        answers = Task() if isinstance(job.task, (Regression, SentenceEmbedding)) else Logits(self.heat)  # of numbers
        yield Train(answers, self.prediction_epochs, 0.6 * self.lr, name="prediction")

    def student(self, teacher: Any, origin: Any) -> torch.nn.Module:
        """A model of the teacher's family, fewer layers and another width; blank, or of layers of `origin`.

        Raises:
            ValueError: more layers than the teacher's, or a width that its heads do not divide.
        """
        config, deep = deepcopy(teacher.config), len(blocks(teacher))
        hidden = self.hidden or config.hidden_size
        if len(towers(teacher)) > 1:
            raise ValueError(
                f"{config.model_type} has an encoder and a decoder, expected one of them; TinyBERT makes one"
            )
        if self.layers > deep:
            raise ValueError(f"the teacher has {deep} layers, expected {self.layers} at least; type TinyBERT({deep})")
        if (self.layers, hidden) == (deep, width(teacher)):
            raise ValueError(
                f"the teacher has {deep} layers of width {hidden}, and so would the student: nothing would be smaller; "
                f"type TinyBERT(layers={max(1, deep // 2)})"
            )
        if hidden % config.num_attention_heads:
            heads = config.num_attention_heads
            near = max(1, round(hidden / heads)) * heads
            raise ValueError(f"hidden={hidden} is not a multiple of the {heads} heads; type TinyBERT(hidden={near})")
        config.num_hidden_layers = self.layers
        if hidden != config.hidden_size or self.feed_forward:
            inner = "hidden_dim" if config.model_type == "distilbert" else "intermediate_size"
            setattr(config, inner, self.feed_forward or 4 * hidden)
            config.hidden_size = hidden
        student: torch.nn.Module = plain_class(teacher)(config)
        if hidden == teacher.config.hidden_size and not self.feed_forward:
            state = origin.state_dict()
            path = loop(origin)
            for i in range(self.layers):
                from_ = (2 * (i + 1) * deep + self.layers) // (2 * self.layers) - 1
                layer = student.get_submodule(f"{path}.{i}")
                layer.load_state_dict(origin.get_submodule(f"{path}.{from_}").state_dict())
            rest = {k: v for k, v in state.items() if not k.startswith(f"{path}.")}
            student.load_state_dict(rest, strict=False)
        return student
