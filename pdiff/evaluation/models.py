"""A model: the base net with the parameters of a subset replaced."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from pdiff.system.errors import InputError

Model = Mapping[str, Tensor]
"""The subset of one model: {parameter name: value}. All else is the base net's."""


def subset_parameters(net: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """The net's parameters of these names; `InputError` without names or for an unknown one."""
    parameters = dict(net.named_parameters())
    unknown = [name for name in names if name not in parameters]
    if unknown or not names:
        raise InputError(f"{type(net).__name__} lacks parameters of the subset: {unknown}")
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
