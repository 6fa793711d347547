"""What a training step costs by how attention goes through its scores: by torch's own, spelled out, and in blocks.

    python benchmarks/attention_step.py [--threads 1] [--rounds 5] > benchmarks/attention_step.txt

A model of MiniLM's shape (six layers of 384, twelve heads, random weights) takes steps of AdamW in single precision, on
batches of 32 texts of one length.  Plain: by transformers' own two attentions and by ours.  Listened to: a learned
threshold for tokens (LTP's soft stage) reads what every token receives, spelled out and in blocks.  Those of a length
take turns, the first round does not count; medians of the process's time (of one thread, or added up), and the ratio
to torch's own or to what is spelled out.  Memory: the most that a process of its own held at once in two steps (Linux).
"""

import argparse
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from unittest import mock

import torch
from transformers import BertConfig, BertForSequenceClassification

from gossamer.environment import hardware
from gossamer.runtime import attention
from gossamer.runtime.walks import TokenThreshold
from gossamer.walking import walk

LENGTHS = (64, 256)
PLAIN, SPELLED = "plain, torch's own (sdpa)", "listened to, spelled out"
SIDES = {PLAIN: False, "plain, transformers' eager": False, "plain, in blocks": False, SPELLED: True,
         "listened to, in blocks": True}  # fmt: skip


@contextmanager
def spelled_out() -> Iterator[None]:
    """No blocks."""
    with mock.patch.object(attention, "slow", lambda *told: False):
        yield


def shape(attention: str) -> BertConfig:
    """MiniLM's."""
    return BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=2,
        attn_implementation=attention,
    )  # fmt: skip


def step(name: str, tokens: int) -> Callable[[], None]:
    """A function that takes one step."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(shape("eager" if "eager" in name else "sdpa")).train()
    if SIDES[name]:
        threshold = TokenThreshold(6, 0.01, length=tokens)
        threshold.soft = True
        walk(model, threshold)
    elif "blocks" in name:
        attention.use(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    given = {"input_ids": torch.randint(1000, 30000, (32, tokens)), "attention_mask": torch.ones(32, tokens)}
    given["attention_mask"][0, tokens // 2 :] = 0
    labels = torch.arange(32) % 2

    def one() -> None:
        with nullcontext() if "blocks" in name else spelled_out():
            model(**given, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return one


def held(name: str, tokens: int) -> int:
    """MiB that a process holds at most, in two steps."""
    one = step(name, tokens)
    for _ in range(2):
        one()
    [most] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(most) // 1024


def alone(name: str, tokens: int, threads: int) -> int:
    """The same, in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        return pool.submit(partial(held, name, tokens)).result()


def asked(about: str | None) -> argparse.Namespace:
    """How many threads, which are set, and rounds; says on what it runs."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    found = hardware()
    print(f"{found['cpu']} with {', '.join(found['instructions'])}; {told.threads} threads; torch {torch.__version__}")
    return told


def main() -> None:
    """Time the steps and print the table."""
    told = asked(__doc__)
    print(f"{'':10} {'':28} cpu s   ratio   MiB")
    for tokens in LENGTHS:
        steps = {name: step(name, tokens) for name in SIDES}
        spent = {name: list[float]() for name in SIDES}
        for turn in range(told.rounds + 1):
            for name, one in steps.items():
                began = time.process_time()
                one()
                spent[name] += [time.process_time() - began] if turn else []
        for name, listened in SIDES.items():
            base = spent[SPELLED if listened else PLAIN]
            ratio = median(b / a for a, b in zip(spent[name], base, strict=True))
            memory = alone(name, tokens, told.threads)
            print(f"{tokens:3} tokens {name:28} {median(spent[name]):5.2f}   {ratio:4.2f}x  {memory:5}", flush=True)


if __name__ == "__main__":
    main()
