"""What it costs in use that somebody listens to the attention: spelled out, and in blocks.

    python benchmarks/listening.py [--threads 1] [--rounds 5] > benchmarks/listening.txt

A model of MiniLM's shape with random weights answers texts of one length.  Plain: torch's own attention, which tells
nothing.  The others have LTP's thresholds, so low that no token leaves: what is seen is the price of listening alone.
They take turns, the first round does not count; medians of the process's time, and how many times plain's that is.
"""

from collections.abc import Callable
from statistics import median
from time import process_time
from typing import Any

import torch
from attention_step import asked, shape, spelled_out
from transformers import BertForSequenceClassification

from gossamer.runtime.walks import TokenThreshold
from gossamer.walking import walk

LOADS = ((32, 256), (32, 64), (1, 256), (1, 64))


def sides(texts: int, tokens: int) -> dict[str, Callable[[], Any]]:
    """A function that answers, by name."""
    torch.manual_seed(0)
    plain, heard = (BertForSequenceClassification(shape("sdpa")).eval() for _ in range(2))
    walk(heard, TokenThreshold(6, 1e-9, length=tokens))
    given = {"input_ids": torch.randint(1000, 30000, (texts, tokens)), "attention_mask": torch.ones(texts, tokens)}

    def old() -> None:
        with spelled_out():
            heard(**given)

    return {"plain": lambda: plain(**given), "spelled out": old, "in blocks": lambda: heard(**given)}


@torch.no_grad()
def main() -> None:
    """Time the answers and print the table."""
    told = asked(__doc__)
    print(f"{'':32} cpu ms  times plain")
    for texts, tokens in LOADS:
        every = sides(texts, tokens)
        spent = {name: list[float]() for name in every}
        for turn in range(1 + told.rounds * (1 if texts > 1 else 5)):
            for name, answer in every.items():
                began = process_time()
                answer()
                spent[name] += [1e3 * (process_time() - began)] if turn else []
        for name, mine in spent.items():
            times = median(a / b for a, b in zip(mine, spent["plain"], strict=True))
            print(f"{texts:2} x {tokens:3} tokens, {name:12} {median(mine):9.1f} {times:8.2f}x", flush=True)


if __name__ == "__main__":
    main()
