"""What it costs that Int8's weights fit the quick products of x86 without VNNI, beside the other ways to have that.

    python benchmarks/rounding.py TUNED [TUNED ...] > benchmarks/rounding.txt

TUNED: classifiers fine-tuned on Rotten Tomatoes (`make demo` and benchmarks/dynamic.py leave some).  Each is rounded by
Int8 with one scale of a row of weights or another: the usual one, whose products may overflow there or take kernels
that are slower; Int8's own, by which no two neighbours can; and seven bits, which others take for that.  On the test
texts: accuracy, how many labels are those of the model before, how far the logits are from its; means over the models.
"""

import argparse
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch
from spine import job_for

from gossamer import recipe
from gossamer.data import read
from gossamer.forms import Rounded
from gossamer.job import answers
from gossamer.methods.quantization import int8
from gossamer.pipeline import opened
from gossamer.task import encode
from gossamer.train import drive

WAYS: dict[str, Callable[..., Rounded]] = {
    "the usual scale": lambda bits, paired: Rounded(bits),
    "Int8's": Rounded,
    "seven bits": lambda bits, paired: Rounded(bits - 1 if paired else bits),
}
RECIPES = ("Int8()", "Int8(static=True)")


def figures(tuned: Path) -> dict[tuple[str, str], list[float]]:
    """Accuracy, labels the same, difference of the logits: by recipe and way, and of the model itself."""
    data = read("rotten-tomatoes")
    model, tokenizer, _ = opened(str(tuned), data)
    found = {}
    with TemporaryDirectory() as folder:
        job = job_for(model, tokenizer, data, Path(folder), 0, 0)
        assert data.test is not None
        test = encode(job.task, tokenizer, data.test, 128)
        labels = np.array([one["labels"] for one in test])
        before = answers(model, job, test)
        found["", "fp32"] = [100 * job.task.score(before, labels), 100.0, 0.0]
        for text in RECIPES:
            for name, way in WAYS.items():
                job.model = deepcopy(model)
                with mock.patch.object(int8, "Rounded", way):
                    drive(job, recipe.parse(text))
                said = answers(job.model, job, test)
                same = float((said.argmax(1) == before.argmax(1)).mean())
                apart = float(np.abs(said - before).mean())
                found[text, name] = [100 * job.task.score(said, labels), 100 * same, apart]
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tuned", type=Path, nargs="+")
    told = parser.parse_args()
    torch.set_num_threads(1)
    every = [figures(one) for one in told.tuned]
    print(f"{len(every)} models\n{'':36} {'accuracy':>9} {'labels the same':>16} {'logits differ':>14}")
    for text, name in every[0]:
        accuracy, same, apart = np.mean([one[text, name] for one in every], 0)
        print(f"{text:18} {name:17} {accuracy:8.2f}% {same:15.2f}% {apart:14.4f}")


if __name__ == "__main__":
    main()
