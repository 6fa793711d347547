"""A budget for gates: the expected sparsity is held to a rising target by a Lagrangian, and in the end it is met.

The constraint of FLOP (Wang, Wohlwend & Lei, EMNLP 2020) as CoFi uses it (Xia, Zhong & Chen, ACL 2022, section 3.1).
"""

import torch
from torch import Tensor, nn

from gossamer.anatomy import blocks, width
from gossamer.gates import HardConcrete, gate_heads, gate_hidden, gate_neurons, gate_sublayer, separable
from gossamer.loss import Loss, Step

CLOSE = 0.005  # how far from the target slicing may end without more ado


class Budget(Loss):
    """max over multipliers of l1 (s - t) + l2 (s - t)^2, with s the expected sparsity and t the rising target."""

    def __init__(self, sparsity: float, warmup: float) -> None:
        super().__init__()
        self.sparsity, self.warmup, self.total = sparsity, warmup, 0
        self._lines: list[tuple[HardConcrete | None, HardConcrete, float]] = []
        self._layers: list[list[HardConcrete]] = []
        self._hidden: list[HardConcrete] = []
        self.multipliers = nn.Parameter(torch.zeros(2))
        self.multipliers.register_hook(torch.neg)  # the multipliers climb

    def install(self, model: nn.Module, hidden: bool) -> list[HardConcrete]:
        """Put gates on everything that may go, and count what it weighs."""
        device = next(model.parameters()).device
        start = {"neurons": 0.0}

        def gate(size: int, what: str = "") -> HardConcrete:
            made = HardConcrete(size, start.get(what, 10.0)).to(device)
            found.append(made)
            return made

        found, d = list[HardConcrete](), width(model)
        for block in blocks(model):
            before = len(self._lines)
            o, down, heads = block.part("o"), block.part("down"), None
            if isinstance(o, nn.Linear):
                if separable(model, block):
                    heads = gate(block.heads)
                    gate_heads(block, heads)
                whole = gate(1)
                gate_sublayer(o, whole)
                self.spend(heads, whole, 4 * block.head_dim * d * (1 if heads else block.heads))
            if isinstance(down, nn.Linear):
                neurons, whole = gate(down.in_features, "neurons"), gate(1)
                gate_neurons(block, neurons)
                gate_sublayer(down, whole)
                self.spend(neurons, whole, (3 if "gate" in block.parts else 2) * d)
            self._layers.append([whole for _, whole, _ in self._lines[before:]])
        if not found:
            raise ValueError("no sublayer that could be pruned is left in this model; leave the pruning out")
        if hidden:
            self._hidden = [gate(d)]
            gate_hidden(model, self._hidden[0])
        return found

    def spend(self, units: HardConcrete | None, whole: HardConcrete, each: float) -> None:
        """Units of `each` weights, inside a sublayer that may go as a whole."""
        self._lines.append((units, whole, each))
        self.total += int(each * (len(units.log_alpha) if units is not None else 1))

    def expected(self) -> Tensor:
        """The expected sparsity, a scalar."""
        alive = sum(
            each * whole.alive().sum() * (units.alive().sum() if units is not None else 1)
            for units, whole, each in self._lines
        )
        thin = self._hidden[0].alive().mean() if self._hidden else 1.0
        return torch.as_tensor(1 - thin * alive / self.total)

    def forward(self, step: Step) -> Tensor:
        """The price of being off target."""
        over = self.expected() - self.sparsity * min(1.0, step.progress / self.warmup)
        return self.multipliers[0] * over + self.multipliers[1] * over.square()

    @torch.no_grad()
    def hard(self) -> float:
        """The sparsity that slicing will give: gates counted as they decide in evaluation."""
        alive = sum(
            each * round(whole.alive().sum().item()) * (round(units.alive().sum().item()) if units is not None else 1)
            for units, whole, each in self._lines
        )
        thin = [round(gate.alive().sum().item()) / len(gate.log_alpha) for gate in self._hidden]
        return 1 - (thin[0] if thin else 1.0) * alive / self.total

    @torch.no_grad()
    def meet(self) -> float:
        """Shift the gates' decisions so that slicing gives the target; the sparsity reached.

        After a short training many gates are undecided, and rounding each sublayer for itself can miss the target by
        far.  One shift common to all units meets it; only where that cannot, one common to all sublayers decides first
        which of them stay, on the side of too many.  Where a head is too much, neurons make up the rest.  The order of
        the gates stays as it was learned, and their values.
        """
        units = {units: each for units, _, each in self._lines if units is not None}
        small = [gate for gate, each in units.items() if each == min(units.values())]
        wholes = [whole for _, whole, _ in self._lines]
        self._shift([*units])
        if abs(self.hard() - self.sparsity) > CLOSE:
            for unit in units:  # sublayers are chosen with the units that were learned, not with all or none
                unit.shift.zero_()
            for gates in (wholes, [*units], small):
                self._shift(gates)
        return self.hard()

    def _shift(self, gates: list[HardConcrete]) -> None:
        """The smallest shift common to the gates that leaves no less than the target asks for, then a little less.

        Gates alike in all layers would go at the same shift; one after another goes as long as the target allows.
        """
        low, high = -20.0, 20.0  # the sparsity falls as the gates are shifted up
        for _ in range(50):
            middle = (low + high) / 2
            for gate in gates:
                gate.shift.fill_(middle)
            low, high = (middle, high) if self.hard() > self.sparsity else (low, middle)
        for gate in gates:
            gate.shift.fill_(high)
        for gate in gates:
            gate.shift.fill_(low)
            if self.hard() > self.sparsity:
                gate.shift.fill_(high)

    @torch.no_grad()
    def living(self) -> list[bool]:
        """Of each stored layer, whether a sublayer of it is open in the present sample, or has no gate at all."""
        return [len(wholes) < 2 or any(bool(whole() > 0) for whole in wholes) for wholes in self._layers]
