"""Nets of independent seeds, with their neurons brought to one order and one scale.

The neurons of a hidden layer may be permuted, together with the weights that leave them: the net
computes the same function. A neuron behind a ReLU may also be multiplied by s > 0, and one behind a
tanh by -1, if the weights that leave it are divided by the same number. Averages of independent
nets are at chance before these symmetries are removed. Permutations are found by weight matching
(Ainsworth et al. 2023, "Git Re-Basin", arXiv 2209.04836, algorithm 1).

Axes: D parameters, U neurons of a layer, F numbers of a neuron.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.func import functional_call

from pdiff.parameters.subset import Models, Subset
from pdiff.system.errors import InputError

State = dict[str, Tensor]
"""One net, {parameter name: value}."""
ROUNDS = 100
"""Most passes over the layers; a few are enough."""
MERGES = 2
"""Means of all nets that a reference takes."""
BALANCED = 1e-6
"""Largest change of a neuron's scale that counts as none."""
EQUAL = 1e-4
"""Largest difference of logits that counts as rounding, relative to the largest logit."""


@dataclass(frozen=True)
class Hidden:
    """A hidden layer of U neurons, whose outputs go to the layer `after` alone."""

    name: str
    after: str
    units: int
    scale: Literal["none", "sign", "positive"] = "none"
    """The numbers that a neuron may be multiplied by."""

    def incoming(self, state: State) -> Float[Tensor, "U F"]:
        """Weights and bias of each neuron."""
        parts = [state[f"{self.name}.weight"].flatten(1)]
        parts += [state[key][:, None] for key in (f"{self.name}.bias",) if key in state]
        return torch.cat(parts, 1)

    def outgoing(self, state: State) -> Float[Tensor, "U F"]:
        """The weights that leave each neuron, those of all its pixels."""
        return state[f"{self.after}.weight"].unflatten(1, (self.units, -1)).movedim(1, 0).flatten(1)

    def moved(self, state: State, order: Int64[Tensor, " U"], factor: Float[Tensor, " U"]) -> State:
        """The net whose neuron i is the old neuron `order[i]`, multiplied by `factor[i]`."""
        new = dict(state)
        for key in (f"{self.name}.weight", f"{self.name}.bias"):
            if key in state:
                value = state[key][order]
                new[key] = value * factor.view(-1, *[1] * (value.ndim - 1))
        key = f"{self.after}.weight"
        leaving = state[key].unflatten(1, (self.units, -1))[:, order]
        new[key] = (leaving / factor.view(1, -1, *[1] * (leaving.ndim - 2))).flatten(1, 2)
        return new


@dataclass(frozen=True)
class Chain:
    """A net of layers in a row, each with a weight and mostly a bias."""

    subset: Subset
    hidden: tuple[Hidden, ...]

    @classmethod
    def of_shapes(cls, subset: Subset) -> "Chain":
        """The chain that these parameters form in their order, with permutations alone.

        Raises:
            InputError: they are no weights and biases of layers that fit each other.
        """
        weights = {n.removesuffix(".weight"): s for n, s in subset.shapes.items() if len(s) > 1}
        biases = {f"{name}.bias": shape[:1] for name, shape in weights.items()}
        vectors = {name: shape for name, shape in subset.shapes.items() if len(shape) < 2}
        pairs = list(zip(weights, list(weights)[1:], strict=False))
        fit = all(weights[b][1] % weights[a][0] == 0 for a, b in pairs)
        if not pairs or not fit or any(biases.get(name) != s for name, s in vectors.items()):
            raise InputError(
                "finetune.zoo.align: the parameters are no weights and biases of two or more "
                "layers in a row; give a plain net with subset.select: all, or align: false"
            )
        return cls(subset, tuple(Hidden(a, b, weights[a][0]) for a, b in pairs))

    @classmethod
    def of(cls, net: nn.Module, subset: Subset, images: Float[Tensor, "B C S S"]) -> "Chain":
        """The chain of a net, with what its logits of `images` do not change by.

        Every symmetry is tried. `InputError` if the logits change with the order of neurons.
        """
        device = images.device
        state = {name: net.get_parameter(name).detach() for name in subset.names}

        @torch.no_grad()
        def logits(own: State) -> Tensor:
            return functional_call(net.eval(), own, (images,))

        expected = logits(state)
        least = EQUAL * expected.abs().max()

        def same(layer: Hidden, order: Tensor, factor: Tensor) -> bool:
            found = logits(layer.moved(state, order.to(device), factor.to(device)))
            return bool((found - expected).abs().max() <= least)

        chain = cls.of_shapes(subset)
        found = []
        for layer in chain.hidden:
            plain, one = torch.arange(layer.units), torch.ones(layer.units)
            if not same(layer, plain.flip(0), one):
                raise InputError(
                    f"finetune.zoo.align: the net's logits change with the order of {layer.name}'s "
                    "neurons, so it is no chain of layers; give another net, or align: false"
                )
            kinds = {"positive": 2 * one, "sign": -one}
            kind = next((k for k, factor in kinds.items() if same(layer, plain, factor)), "none")
            found.append(replace(layer, scale=kind))
        return replace(chain, hidden=tuple(found))

    def state(self, row: Float[Tensor, " D"]) -> State:
        return Models(self.subset, row[None])[0]

    def row(self, state: Mapping[str, Tensor]) -> Float[Tensor, " D"]:
        return torch.cat([state[name].flatten() for name in self.subset.names])

    def balanced(self, row: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """The net whose neurons' incoming and outgoing weights have equal norms, where they may."""
        state = self.state(row)
        for _ in range(ROUNDS):  # a layer's scale changes that of its neighbours
            moved = 0.0
            for layer in (own for own in self.hidden if own.scale == "positive"):
                into, out = layer.incoming(state).norm(dim=1), layer.outgoing(state).norm(dim=1)
                factor = torch.where((into > 0) & (out > 0), (out / into).sqrt(), 1.0)
                state = layer.moved(state, torch.arange(layer.units), factor)
                moved = max(moved, (factor - 1).abs().max().item())
            if moved < BALANCED:
                break
        return self.row(state)

    def aligned(
        self, row: Float[Tensor, " D"], reference: Float[Tensor, " D"]
    ) -> Float[Tensor, " D"]:
        """The net that computes the same as `row`, is balanced, and lies near `reference`.

        Layer after layer takes the permutation (and signs) with the largest inner product, the
        others held fixed, until none changes.
        """
        state, target = self.state(self.balanced(row)), self.state(reference)
        for _ in range(ROUNDS):
            changed = False
            for layer in self.hidden:
                order, sign = _matching(layer, state, target)
                if not torch.equal(order, torch.arange(layer.units)) or (sign < 0).any():
                    state, changed = layer.moved(state, order, sign), True
            if not changed:
                break
        return self.row(state)

    def merged(self, rows: Float[Tensor, "K D"], start: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """A reference for nets like `rows`: their mean when they are aligned to `start`, and to the
        mean of that, and so on (`MERGES` times; Ainsworth et al., section 4, algorithm 3)."""
        reference = self.balanced(start)
        for _ in range(MERGES):
            aligned = torch.stack([self.aligned(row, reference) for row in rows])
            reference = aligned.double().mean(0).float()
        return reference

    def shuffled(self, row: Float[Tensor, " D"], generator: torch.Generator) -> Float[Tensor, " D"]:
        """The same net with the neurons of each hidden layer in a random order."""
        state = self.state(row)
        for layer in self.hidden:
            order = torch.randperm(layer.units, generator=generator)
            state = layer.moved(state, order, torch.ones(layer.units))
        return self.row(state)


def _matching(layer: Hidden, state: State, target: State) -> Sequence[Tensor]:
    """Which neuron of `state` comes to each place of `target`, and the sign it takes."""
    gain = layer.incoming(target) @ layer.incoming(state).T
    gain = (gain + layer.outgoing(target) @ layer.outgoing(state).T).double()
    reached = gain.abs() if layer.scale == "sign" else gain
    order = torch.from_numpy(linear_sum_assignment(reached.numpy(), maximize=True)[1])
    chosen = gain.gather(1, order[:, None])[:, 0]
    sign = torch.where(chosen < 0, -1.0, 1.0) if layer.scale == "sign" else torch.ones(layer.units)
    return order, sign
