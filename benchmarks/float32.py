"""What float32 costs on this processor: as torch goes about it, and by the quicker of its two libraries.

    python benchmarks/float32.py [--threads 1] [--rounds 5] > benchmarks/float32.txt

A model of MiniLM's shape (six layers of 384, twelve heads, random weights) takes steps of AdamW, and answers batches of
texts of one length; it learns with gossamer's attention.  The two sides take turns, the first round does not count;
medians of the process's time (of one thread, or added up) and the ratio to torch as it is.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from statistics import median

import torch
from attention_step import shape
from transformers import BertForSequenceClassification

from gossamer import kernels
from gossamer.environment import hardware
from gossamer.runtime import attention

SIDES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "as torch is": nullcontext,
    "the quicker one": partial(kernels.quick, torch.device("cpu")),
}


def learning(texts: int, tokens: int) -> Callable[[], None]:
    """A function that takes a step."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(shape("sdpa")).train()
    attention.use(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    ids, labels = torch.randint(1000, 30000, (texts, tokens)), torch.arange(texts) % 2

    def one() -> None:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return one


def answering(texts: int, tokens: int) -> Callable[[], None]:
    """A function that answers a batch."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(shape("sdpa")).eval()
    ids = torch.randint(1000, 30000, (texts, tokens))

    def one() -> None:
        with torch.inference_mode():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))

    return one


def timed(one: Callable[[], None], rounds: int, often: int) -> dict[str, list[float]]:
    """Seconds of the process of each side, in turns."""
    found: dict[str, list[float]] = {name: [] for name in SIDES}
    for turn in range(rounds + 1):
        for name in list(SIDES)[:: 1 if turn % 2 else -1]:
            with SIDES[name]():
                one()  # what a side needs first
                began = time.process_time()
                for _ in range(often):
                    one()
                if turn:
                    found[name].append((time.process_time() - began) / often)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    here = hardware()
    print(f"{here['cpu']} with {', '.join(here['instructions'])}; {told.threads} threads; torch {torch.__version__}")
    with kernels.quick(torch.device("cpu")):
        quicker = not attention.fused
    print(f"products by {'oneDNN' if quicker else 'MKL, as ever'}\n{'':40}{'cpu ms':>9}{'ratio':>8}")
    cases = [("learns", learning, 32, 64, 3), ("learns", learning, 32, 256, 1)]
    cases += [("answers", answering, 32, 24, 8), ("answers", answering, 32, 128, 2)]
    for verb, make, texts, tokens, often in cases:
        found = timed(make(texts, tokens), told.rounds, often)
        for name, seconds in found.items():
            ratio = median(a / b for a, b in zip(found["as torch is"], seconds, strict=True))
            what = f"{verb} {texts:2} x {tokens:3} tokens"
            print(f"{what:24}{name:16}{1000 * median(seconds):7.1f}{ratio:7.2f}x", flush=True)


if __name__ == "__main__":
    main()
