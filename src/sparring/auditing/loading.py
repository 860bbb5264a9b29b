"""Models from where users keep them: a Python path, a weights file with a factory, an exported program."""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sparring.errors import InputError, line_of

WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")


def load_model(target: str | Path, factory: str | None = None) -> nn.Module:
    """A classifier in evaluation mode, from `module:callable`, a weights file with a `factory`, or an exported `.pt2`.

    Weight files are read without running code of theirs. Raises InputError, in one line, for anything that cannot be read.
    """
    path = Path(target)
    if path.suffix == ".pt2":
        return exported(path)
    if path.suffix in WEIGHTS:
        if factory is None:
            raise InputError(f"{target} holds weights only; name what builds the network: --factory module:callable")
        return with_weights(made(factory), path)
    if ":" in str(target):
        return made(str(target))
    expected = "module:callable, a .safetensors or state_dict file with --factory, a .pt2 file, or a run's folder"
    raise InputError(f"cannot audit {str(target)!r}; expected {expected}")


def made(path: str) -> nn.Module:
    """What the callable of `module:callable` returns; modules in the current directory are found."""
    name, _, attribute = path.partition(":")
    if not name or not attribute:
        raise InputError(f"{path!r} is no Python path; expected module:callable, such as my_models:classifier")
    found: Any = _imported(name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InputError(f"module {name!r} has no {attribute!r}")
        found = getattr(found, part)
    model = found if isinstance(found, nn.Module) else _called(found, path)
    if not isinstance(model, nn.Module):
        raise InputError(f"{path} returned a {type(model).__name__}; expected a torch.nn.Module")
    return model.eval()


def with_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """The model with the file's weights; names and shapes must be its own."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read as weights: {line_of(error)}") from None
    except Exception as error:  # the unpickler's own error has no public name in older versions
        if "Unpickling" not in type(error).__name__:
            raise
        raise InputError(f"{path} holds more than tensors and is not run; save model.state_dict() instead") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds no state_dict; save model.state_dict()")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"the weights in {path} do not fit the network: {line_of(error)}") from None
    return model.eval()


class Exported(nn.Module):
    """An exported program as a module whose mode can be set like any other's."""

    def __init__(self, program: nn.Module, batch: int | None) -> None:
        super().__init__()
        self.run: Callable[[Tensor], Tensor] = program.__call__  # no submodule: its train() and eval() raise
        self.batch = batch
        for name, parameter in program.named_parameters():
            self.register_parameter(name.replace(".", "_"), parameter)
        for name, buffer in program.named_buffers():
            self.register_buffer(name.replace(".", "_"), buffer)

    def forward(self, x: Tensor) -> Tensor:
        if self.batch is None or len(x) == self.batch:
            return self.run(x)
        parts = [torch.cat([p, p.new_zeros(self.batch - len(p), *p.shape[1:])]) for p in x.split(self.batch)]
        return torch.cat([self.run(part) for part in parts])[: len(x)]


def exported(path: str | Path) -> nn.Module:
    """An exported program; one made for a fixed batch size is given batches of that size."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        program = torch.export.load(path)
        module = program.module()
    except Exception as error:  # its reader raises whatever its parts raise
        raise InputError(f"{path} cannot be read as an exported program: {line_of(error)}") from None
    names = set(program.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    size = values[0].shape[0] if len(values) == 1 and isinstance(values[0], Tensor) else None
    return Exported(module, size if isinstance(size, int) else None)


def _imported(name: str) -> Any:
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except Exception as error:  # a module may raise anything
        raise InputError(f"cannot import {name!r}: {_said(error)}") from None
    finally:
        if added:
            sys.path.remove(here)


def _called(function: Callable[[], Any], path: str) -> Any:
    if not callable(function):
        raise InputError(f"{path} is a {type(function).__name__}; expected a function that returns a torch.nn.Module")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise InputError(f"{path} cannot be called without arguments: {line_of(error)}") from None
    except ValueError:  # what is built in may not tell its arguments
        pass
    try:
        return function()
    except Exception as error:  # it raises whatever its parts raise
        raise InputError(f"{path} failed: {_said(error)}") from None


def _said(error: Exception) -> str:
    """An error of somebody else's code, its kind too: the words of some say little without."""
    kind = type(error).__name__
    return kind if line_of(error) == kind else f"{kind}: {line_of(error)}"
