"""A model: the base net with the parameters of a subset replaced."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from pdiff.system.errors import InputError

Model = Mapping[str, Tensor]
"""The subset of one model: {parameter name: value}. All else is the base net's."""


def subset_parameters(net: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """The net's parameters of these names; `InputError` if one is unknown or comes twice."""
    parameters, buffers = dict(net.named_parameters()), dict(net.named_buffers())
    for name in names:
        if name in buffers:
            raise InputError(f"{name!r} is a buffer of {type(net).__name__}, not a parameter")
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, cutoff=0)
            raise InputError(
                f"{type(net).__name__} has no parameter {name!r}; it has {len(parameters)}, "
                f"for example {near}"
            )
    if len(set(names)) < len(names) or not names:
        raise InputError(f"a subset needs one or more parameters, each once; got {list(names)}")
    return {name: parameters[name] for name in names}


def check_model(model: Model, base: Mapping[str, Tensor]) -> None:
    """Raise `InputError` if the model's names or shapes are not those of `base`."""
    if model.keys() != base.keys():
        raise InputError(
            f"a model must have exactly the parameters of the subset; missing: "
            f"{sorted(base.keys() - model.keys())}, unknown: {sorted(model.keys() - base.keys())}"
        )
    for name, parameter in base.items():
        if model[name].shape != parameter.shape:
            raise InputError(
                f"the model's {name!r} has shape {tuple(model[name].shape)}, "
                f"the net's {tuple(parameter.shape)}"
            )


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """The net in eval mode for a while; afterwards every module's mode is as it was."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
