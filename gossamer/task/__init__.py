"""What is asked of a model, one small class for each kind of question.

A task configures the model's head, turns texts into token ids and those into padded batches, makes answers of what the
model puts out, and scores them.  Methods and recipes do not change with the task.

What only scoring needs is imported when something is scored: a process that predicts starts without it.
"""

from typing import TYPE_CHECKING, Any

from .answering import QuestionAnswering
from .classification import Classification
from .embedding import SentenceEmbedding
from .kind import Example, Flat, Read, Said, Task
from .modelling import CausalLM, LanguageModelling, MaskedLM
from .reading import AT_ONCE, OFFSET_FAMILIES, encode, entry, max_length
from .regression import Regression
from .rewriting import Seq2Seq
from .tagging import TokenClassification

if TYPE_CHECKING:
    from gossamer.data import Data

TASKS: tuple[type[Task], ...] = (
    Classification, Regression, TokenClassification, QuestionAnswering, MaskedLM, CausalLM, Seq2Seq, SentenceEmbedding
)  # fmt: skip
ENDINGS = {
    "ForTokenClassification": TokenClassification,
    "ForQuestionAnswering": QuestionAnswering,
    "ForMaskedLM": MaskedLM,
    "ForCausalLM": CausalLM,
    "LMHeadModel": CausalLM,
    "ForConditionalGeneration": Seq2Seq,
    "MTModel": Seq2Seq,
}  # how architectures of transformers end; a name that ends in Model alone has no head

__all__ = [
    "AT_ONCE",
    "OFFSET_FAMILIES",
    "TASKS",
    "CausalLM",
    "Classification",
    "Example",
    "Flat",
    "LanguageModelling",
    "MaskedLM",
    "QuestionAnswering",
    "Read",
    "Regression",
    "Said",
    "SentenceEmbedding",
    "Seq2Seq",
    "Task",
    "TokenClassification",
    "encode",
    "max_length",
    "named",
    "of",
    "of_model",
]  # fmt: skip


def named(kind: str) -> type[Task]:
    """The task of that name.

    Raises:
        ValueError: there is none.
    """
    found = {task.kind: task for task in TASKS}
    if kind not in found:
        from gossamer.formats import unknown

        raise unknown(kind)
    return found[kind]


def of(data: "Data") -> Task:
    """The task that data poses.

    Raises:
        ValueError: it has no labels, and was not read for a task that needs none.
    """
    if data.kind in (MaskedLM.kind, CausalLM.kind):
        return MaskedLM() if data.kind == MaskedLM.kind else CausalLM()
    if any(split.labels is None for split in data.splits.values()):
        raise ValueError(f"{data.name} was read without labels, expected some; name their column with --label")
    labels = [label for split in data.splits.values() for label in split.labels or ()]
    if data.kind == TokenClassification.kind:
        return TokenClassification(data.labels or ())
    if data.kind == QuestionAnswering.kind:
        return QuestionAnswering(nothing=not all(labels))
    if data.kind == Seq2Seq.kind:
        return Seq2Seq()
    if data.kind == SentenceEmbedding.kind:
        return SentenceEmbedding(top=max([1.0, *map(float, labels)]))
    return Regression() if data.labels is None else Classification(data.labels)


def of_model(config: Any) -> Task:
    """The task that a model was made for; config: a transformers config, or the contents of a config.json.

    Raises:
        ValueError: a head with several labels per text.
    """
    problem = entry(config, "problem_type")
    if problem == "multi_label_classification":
        raise ValueError("the model gives several labels to a text (problem_type), expected one class or one number")
    architecture = (entry(config, "architectures") or [""])[0]
    kind = next((task for ending, task in ENDINGS.items() if architecture.endswith(ending)), None)
    if kind is QuestionAnswering:
        return QuestionAnswering(nothing=bool(entry(config, "handle_impossible_answer")))
    if kind is None and architecture.endswith("Model"):
        return SentenceEmbedding()
    if kind not in (None, TokenClassification):
        return MaskedLM() if kind is MaskedLM else CausalLM() if kind is CausalLM else Seq2Seq()
    names = entry(config, "id2label") or {0: "LABEL_0", 1: "LABEL_1"}  # a config.json leaves its default out
    labels = tuple(str(names[i]) for i in sorted(names, key=int))  # in JSON the keys are strings
    if kind is TokenClassification:
        return TokenClassification(labels)
    return Regression() if problem == "regression" or len(labels) == 1 else Classification(labels)
