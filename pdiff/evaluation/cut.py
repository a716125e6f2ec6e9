"""A net cut in two, so that models which share most of their parameters share most of the work.

`torch.export` turns the net into a graph, and every value of the graph depends on
  neither the images nor the subset  -> `fixed`, computed once, when the net is cut,
  the images but not the subset      -> `prefix`, computed once per batch of images,
  the subset                         -> `suffix`, computed for each model and each batch.
Values that cross from prefix to suffix are the `boundary`. Before it is cut, the graph loses work
that cannot reach the logits: unused positions (`positions`) and products with padding
(`small_maps`).

Axes: B batch, C classes; images are (B, C, H, W) with C channels.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.func import functional_call
from torch.fx import Graph, GraphModule, Node

from pdiff.evaluation.rewrites.positions import drop_unused_positions
from pdiff.evaluation.rewrites.small_maps import use_matrices
from pdiff.system.errors import InputError, reason

Model = Mapping[str, Tensor]
"""The subset of one model: {parameter name: value}. All else is the base net's."""

Boundary = tuple[Tensor | int, ...]
"""What the suffix needs of one batch: activations and, for nets that reshape, the batch size."""

FIXED, IMAGES, SUBSET = range(3)
"""What a value depends on, at most; also the order in which the three parts run."""


class CutNet:
    """A net cut into what does not depend on a subset of its parameters and what does.

    `run(load(model), prefix(images))` are the net's logits with the parameters of `model` in place
    of its own, with the base net's buffers, such as running statistics. The net is put in eval mode
    and shares its other parameters.

    A net that `torch.export` cannot trace, or traces to other logits on `example`, is run whole
    for every model; a warning says so, and `traced` is False.
    """

    traced: bool

    def __init__(
        self, net: nn.Module, names: Sequence[str], example: Float[Tensor, "B C H W"]
    ) -> None:
        """Trace and cut `net`; `example` shows the size of the images, its batch size is free.

        Raises `InputError` without names, or if one is not that of a parameter.
        """
        parameters = dict(net.named_parameters())
        unknown = [name for name in names if name not in parameters]
        if unknown or not names:
            raise InputError(f"{type(net).__name__} lacks parameters of the subset: {unknown}")
        self._net, self._base = net.eval(), {name: parameters[name] for name in names}
        try:
            self._trace(example)
            self.traced = True
            self._check(example[:2])
        except Exception as error:  # export fails in many ways, and running the net always works
            self.traced = False
            warnings.warn(
                f"{type(net).__name__} cannot be cut ({type(error).__name__}: {reason(error)}); "
                "evaluation runs the whole net for every model, which is slower",
                stacklevel=2,
            )

    @torch.inference_mode()
    def prefix(self, images: Float[Tensor, "B C H W"]) -> Boundary:
        """What the suffix needs of `images`, for any model; the images themselves if untraced."""
        if not self.traced:
            return (images,)
        # reshapes were traced as views of contiguous images
        values = self._fixed | {self._images: images.contiguous()}
        return tuple(self._prefix(values).values())

    @torch.inference_mode()
    def load(self, model: Model) -> dict[str, Tensor]:
        """The model's values on the net's device, in the type and memory layout of the net's own.

        Raises `InputError` if the model's names or shapes are not those of the subset.
        """
        own, base = ({n: tuple(t.shape) for n, t in m.items()} for m in (model, self._base))
        if own != base:
            missing, unknown = base.items() - own.items(), own.items() - base.items()
            raise InputError(
                f"a model must have the parameters of the subset; missing: {sorted(missing)}, "
                f"unknown: {sorted(unknown)}"
            )
        return {
            name: torch.empty_like(base).copy_(model[name]) for name, base in self._base.items()
        }

    @torch.inference_mode()
    def run(self, loaded: dict[str, Tensor], boundary: Boundary) -> Float[Tensor, "B C ..."]:
        """Logits of a loaded model on the images that `boundary` is the prefix of."""
        if not self.traced:
            return functional_call(self._net, loaded, boundary)
        values = self._fixed | dict(zip(self._prefix.outputs, boundary, strict=True))
        values |= {node: loaded[name] for node, name in self._subset.items()}
        (logits,) = self._suffix(values).values()
        return logits

    def _trace(self, example: Float[Tensor, "B C H W"]) -> None:
        """Trace the net, find what each value depends on, and make the three parts."""
        # Two images, since export would take a batch size of one for a constant.
        images = torch.zeros(2, *example.shape[1:], dtype=example.dtype, device=example.device)
        options = {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},), "strict": False}
        with torch.no_grad():
            program = torch.export.export(self._net, (images,), **options)
            # Decomposes nothing ({}: no rules), but makes operations in place ordinary ones, so
            # that the suffix cannot overwrite values of the prefix.
            program = program.run_decompositions({})
        graph, specs = program.graph, program.graph_signature.input_specs

        (output,) = graph.find_nodes(op="output")
        output.args = (output.args[0][-1:],)  # the logits, behind buffers that the net changes
        use_matrices(graph)
        drop_unused_positions(graph)
        graph.eliminate_dead_code()

        state = program.state_dict | program.constants
        tied = dict(self._net.named_parameters(remove_duplicate=False))
        name_of = {id(parameter): name for name, parameter in self._base.items()}
        level, values = {output: SUBSET}, {}
        self._subset: dict[Node, str] = {}  # a parameter that the net uses under two names has two
        for node, spec in zip(graph.find_nodes(op="placeholder"), specs, strict=True):
            if spec.kind == InputKind.USER_INPUT:
                level[node], self._images = IMAGES, node
            elif id(tied.get(spec.target)) in name_of:
                level[node], self._subset[node] = SUBSET, name_of[id(tied[spec.target])]
            else:
                level[node], values[node] = FIXED, state[spec.target]
        for node in graph.nodes:
            if node.op == "call_function":
                level[node] = max((level[value] for value in node.all_input_nodes), default=FIXED)

        with torch.inference_mode():
            self._fixed = _part(graph, level, FIXED)(values)
        self._prefix, self._suffix = _part(graph, level, IMAGES), _part(graph, level, SUBSET)

    @torch.inference_mode()
    def _check(self, images: Float[Tensor, "B C H W"]) -> None:
        """Raise ValueError if the cut net is not the net, which may run otherwise in export.

        The tolerance is far wider than rounding: on a GPU both may choose TF32 kernels.
        """
        theirs = self._net(images)
        difference = (self.run(self.load(self._base), self.prefix(images)) - theirs).abs().max()
        if difference > 0.01 * theirs.abs().max():
            raise ValueError(f"the traced net's logits are off by {difference:.3g}")


@dataclass(frozen=True)
class _Part:
    """The nodes of one level as a function of the values that come from outside of it."""

    inputs: list[Node]
    outputs: list[Node]
    module: GraphModule

    def __call__(self, values: dict[Node, Any]) -> dict[Node, Any]:
        outputs = self.module(*(values[node] for node in self.inputs))
        return dict(zip(self.outputs, map(_compact, outputs), strict=True))


def _part(graph: Graph, level: dict[Node, int], own: int) -> _Part:
    """The nodes of level `own`: from the values of lower levels to those that higher ones use."""
    mine = [node for node in graph.nodes if level[node] == own]
    nodes = [node for node in mine if node.op == "call_function"]
    outputs = [node for node in mine if any(level[user] > own for user in node.users)]
    if own == SUBSET:
        outputs = graph.output_node().all_input_nodes
    made = set(nodes)
    used = [value for node in nodes for value in node.all_input_nodes] + outputs
    inputs = list(dict.fromkeys(value for value in used if value not in made))

    part = Graph()
    copies = {node: part.placeholder(node.name) for node in inputs}
    for node in nodes:
        copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(tuple(copies[node] for node in outputs))
    return _Part(inputs, outputs, GraphModule(nn.Module(), part))


def _compact(value: Any) -> Any:
    """A view of a larger tensor is copied, so that keeping it does not keep the larger one."""
    if isinstance(value, Tensor) and value.untyped_storage().nbytes() > value.nbytes:
        return value.clone()
    return value
