"""Q8BERT: Quantized 8Bit BERT (Zafrir, Boudoukh, Izsak & Wasserblat, EMC2 at NeurIPS 2019), its dynamic baseline.

Every Linear becomes 8-bit integers with one scale per output row, and its inputs are rounded as they come.  The paper
takes one activation scale per tensor; here it is one per token, so that an answer never depends on its batch mates (and
is closer to fp32).  Embedding tables are rounded too, one scale per row.  Softmax, norms, biases stay in fp32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gossamer.forms import Rounded, attach, settle
from gossamer.job import Job
from gossamer.train import Train


@dataclass(frozen=True)
class Int8:
    """Dynamic int8; nothing to train, so nothing to yield."""

    rows: ClassVar[tuple[str, ...]] = ("dynamic_int8",)
    kind: ClassVar[str] = "settle"

    embeddings: bool = True

    def __call__(self, job: Job) -> Iterator[Train]:
        """Round every Linear, and every table."""
        kinds = (nn.Linear, nn.Embedding) if self.embeddings else (nn.Linear,)
        word, decoder = job.model.get_input_embeddings(), job.model.get_output_embeddings()
        tied = decoder is not None and decoder.weight is word.weight  # a language model's: both stay as they are
        kept = {id(word), id(decoder)} if tied else set()
        found = [m for m in job.model.modules() if type(m) in kinds and id(m) not in kept]
        if not found:
            raise ValueError("every Linear of this model is already settled, so Int8 finds nothing to do; leave it out")
        for module in found:
            attach(module, Rounded(8))
        settle(job.model)
        yield from ()
