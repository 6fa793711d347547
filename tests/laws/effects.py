"""What each kind of method claims to make less of, counted: stored bytes, multiply-accumulates, token-layers."""

from typing import Any

import torch

from gossamer.measure.macs import count
from gossamer.measure.size import tensor_bytes
from gossamer.runtime.walks import Patience, TokenThreshold
from tests.laws import small

# claim of a method: the quantity that must have become smaller
CLAIMS = {
    "CoFi": "bytes",
    "DRONE": "bytes",
    "Int8": "bytes",
    "TernaryBERT": "bytes",
    "Share": "bytes",
    "Theseus": "macs",
    "TinyBERT": "macs",
    "PABEE": "walk",
    "LTP": "walk",
}


def macs(model: Any) -> int:
    """Multiply-accumulates of eight texts in one batch."""
    given = small.batch()
    with torch.no_grad():
        return count(lambda: model.eval()(**given))


def measured(model: Any, claim: str) -> float:
    """The quantity of a claim; of a walk, the multiply-accumulates when it lets as much go as it can."""
    if claim == "bytes":
        return float(tensor_bytes(model))
    if claim == "walk":
        for module in model.modules():
            if isinstance(module, Patience):
                with torch.no_grad():  # every exit says the same, so that everybody leaves after two
                    for head in module.exits:
                        head.weight.zero_()
                        head.bias.copy_(torch.tensor([1.0, 0.0]))
            if isinstance(module, TokenThreshold):
                with torch.no_grad():
                    module.delta.fill_(0.5)
    return float(macs(model))
