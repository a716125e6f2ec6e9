"""Base nets of the user's own: `base.net: FILE.py:NAME`, for example `my_net.py:MyNet`.

NAME is a class or function in FILE.py; `NAME(num_classes=N)` returns an `nn.Module` with logits
(B, N). FILE.py is read anew each time, so a stage always uses the code that DVC watches.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from torch import nn

from pdiff.system.errors import InputError, reason
from pdiff.system.paths import root


def is_own(name: str) -> bool:
    """Whether `base.net` means a file of the user's: `FILE.py:NAME`, or `FILE.py` by mistake."""
    return name.endswith(".py") or ".py:" in name


def split_own(name: str) -> tuple[str, str]:
    """FILE.py and NAME, which is empty if it is not given."""
    file, _, wanted = (f"{name}:" if name.endswith(".py") else name).rpartition(":")
    return file, wanted


def own_file(name: str) -> Path:
    """The file of `FILE.py:NAME`, in the working directory or the main checkout."""
    return _locate(split_own(name)[0])


def _locate(file: str) -> Path:
    path = Path(file)
    return (path if path.exists() else root() / path).resolve()


def check_watch(name: str, watch: str) -> None:
    """Raise `InputError` unless DVC watches the file of an own net, or a folder that holds it.

    DVC would otherwise keep results of an older version of the net.
    """
    if not is_own(name):
        return
    file, watched = own_file(name), _locate(watch)
    if watched != file and watched not in file.parents:
        raise InputError(
            f"base.watch: {watch!r} is not the file of base.net: {name!r}; "
            f"give -S base.watch={split_own(name)[0]}"
        )


def build_own(name: str, classes: int) -> nn.Module:
    """Call NAME of FILE.py; `InputError` names the culprit if that gives no net.

    The net's head is its `classifier_name`, or the last linear layer with `classes` outputs.
    """
    make = find_own(name)
    call = f"{name}(num_classes={classes})"
    try:
        net = make(num_classes=classes)
    except Exception as error:  # somebody else's code raises anything
        raise InputError(f"base.net: {call} fails: {_typed(error)}") from None
    if not isinstance(net, nn.Module):
        raise InputError(
            f"base.net: {call} returns an object of type {type(net).__name__}; "
            "it must return a torch.nn.Module"
        )
    if not hasattr(net, "classifier_name"):
        layers = [(name, m) for name, m in net.named_modules() if isinstance(m, nn.Linear)]
        heads = [None, *(name for name, layer in layers if layer.out_features == classes)]
        net.classifier_name = heads[-1]
    return net


def find_own(name: str) -> Callable[..., object]:
    """What NAME is in FILE.py; `InputError` if it is missing or cannot be called."""
    file, wanted = split_own(name)
    module = _load(file)
    found = getattr(module, wanted, None)
    if not callable(found):
        public = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        here = module.__name__
        known = [
            k for k, v in public.items() if callable(v) and getattr(v, "__module__", "") == here
        ]
        raise InputError(
            f"base.net: {name!r} must be {file}:NAME with a class or function as NAME; {file} "
            f"defines {', '.join(known) or 'none'}"
        )
    return found


def _load(file: str) -> ModuleType:
    path = _locate(file)
    if not path.is_file():
        raise InputError(
            f"base.net: {file} is not a file; give FILE.py:NAME, the path absolute or from the "
            "project's folder"
        )
    module = ModuleType(f"own_net_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        # without bytecode files, which would change a watched folder and may be out of date
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:  # somebody else's code raises anything
        del sys.modules[module.__name__]
        raise InputError(f"base.net: {file} cannot be imported: {_typed(error)}") from None
    return module


def _typed(error: BaseException) -> str:
    return f"{type(error).__name__}: {reason(error)}"
