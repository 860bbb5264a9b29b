"""S independent copies of any network as one: inputs (S, B, *shape) to outputs (S, B, C), by mapping its code over copies.

Copies share nothing: copy s computes, and is trained to, exactly what it would alone. Not every network's code can be
mapped; `check_stackable` finds out on a batch, and says why not.
"""

import copy
import re
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from sparring import modes
from sparring.errors import CannotStack


class FunctionalStack(nn.Module):
    """S networks of one architecture that take (B, *shape) to (B, C); each parameter and buffer has a leading axis S.

    Its names are those of one plain network; what is tied or frozen in the networks is so here. Random modules draw
    differently in each copy. Raises CannotStack where the networks differ in more than values; with `probe` (B, *shape), also
    where `check_stackable` does.
    """

    _single: nn.Module

    def __init__(self, networks: Sequence[nn.Module], probe: Tensor | None = None) -> None:
        super().__init__()
        _check_alike(networks)
        try:
            single = _with_stacked_tensors(networks)
        except Exception as error:  # whatever the networks' parts raise when copied
            raise CannotStack(f"a stack needs networks that can be copied: {_first_line(error)}") from error
        # One set of tensors and submodules for both, so that moves, modes and loading reach them under the plain names; as a
        # submodule, `single` would put a prefix before each.
        object.__setattr__(self, "_single", single)
        for held in ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"):
            setattr(self, held, getattr(single, held))
        self.training = single.training
        if probe is not None:
            check_stackable(networks, probe)

    @property
    def n_copies(self) -> int:
        """S, the number of networks."""
        return len(next(iter(_held(self).values())))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (S, B, C) of inputs (S, B, *shape)."""
        self._single.training = self.training
        outputs, replaced = torch.vmap(self._one, randomness="different")(_held(self), x)
        for name, tensor in replaced.items():
            _put(self._single, name, tensor)
        return outputs

    def _one(self, tensors: dict[str, Tensor], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """One copy's outputs (B, C), and the tensors it put in the place of its own."""
        held = dict(tensors)
        outputs: Tensor = functional_call(self._single, held, (x,), tie_weights=False)
        return outputs, {name: held[name] for name, tensor in tensors.items() if held[name] is not tensor}


def check_stackable(networks: Sequence[nn.Module], x: Tensor) -> None:
    """Raises CannotStack where the networks, shown a batch x (B, *shape) as a stack, do other than each alone.

    Outputs and what happens to parameters and buffers are compared, in evaluation and in training mode, on copies of the
    networks; what differs between two runs of one network is random, and left out. The examples should vary, since batch norm
    blows up the rounding errors of a constant batch. A network that fails alone raises its own error.
    """
    together = FunctionalStack(networks)
    xs = x.expand(len(networks), *x.shape)
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        for name, mode in (("evaluation", modes.evaluation), ("training", modes.training)):
            alone, again = ([_outcome(network, x.clone(), mode) for network in networks] for _ in range(2))
            try:
                stacked = {what: tensor.unbind() for what, tensor in _outcome(together, xs, mode).items()}
            except Exception as error:  # whatever the network's code raises when mapped
                raise CannotStack(
                    f"the networks cannot be stacked: in {name} mode, {_innermost(error)} raised: {_first_line(error)}"
                ) from error
            for s, (one, other) in enumerate(zip(alone, again, strict=True)):
                for what, tensor in one.items():
                    if _close(tensor, other[what]) and not _close(tensor, stacked[what][s]):
                        raise CannotStack(
                            f"the networks cannot be stacked: in {name} mode, {what} of network {s} differs from alone"
                        )


def _outcome(
    network: nn.Module, x: Tensor, mode: Callable[[nn.Module], AbstractContextManager[None]]
) -> dict[str, Tensor]:
    """The output of a copy of the network when it sees x again, and the copy's tensors after it."""
    network = copy.deepcopy(network)
    with mode(network):
        network(x)
        output = network(x)  # this one meets what the first has left
    if not isinstance(output, Tensor):
        raise CannotStack(f"a stack needs networks that return one tensor, got {type(output).__name__}")
    return {"the output": output.detach(), **_tensors(network)}


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding, relative to the largest entry."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point() or not a.numel():
        return torch.equal(a, b)
    tolerance = torch.finfo(a.dtype).eps ** 0.5 * float(a.detach().abs().nan_to_num(posinf=0.0).max())
    return torch.allclose(a, b, rtol=0.0, atol=tolerance, equal_nan=True)


def _check_alike(networks: Sequence[nn.Module]) -> None:
    """Raises CannotStack at the first difference in more than values."""
    if not networks:
        raise CannotStack("a stack needs at least one network, got none")
    first = _layout(networks[0])
    for s, network in enumerate(networks[1:], start=1):
        layout = _layout(network)
        for name in reversed(list(first | layout)):  # a module shows its submodules: these come first
            expected, came = first.get(name, "nothing"), layout.get(name, "nothing")
            if came != expected:
                place = f"at {name!r}" if name else "as a whole"
                raise CannotStack(
                    f"a stack needs networks of one architecture: {place}, network {s} has {came}, network 0 {expected}"
                )


def _layout(network: nn.Module) -> dict[str, str]:
    """One line for every module and tensor: all of it but values."""
    persistent = network.state_dict()
    layout = {name: _module_line(module) for name, module in network.named_modules(remove_duplicate=False)}
    owners: dict[Tensor, str] = {}
    for name, tensor in _tensors(network).items():
        if is_lazy(tensor):
            raise CannotStack(f"a stack needs initialised networks, {name!r} has no shape yet: run each network once")
        kind = "a parameter" if isinstance(tensor, nn.Parameter) else "a buffer"
        form = f"{kind} {tuple(tensor.shape)} of {tensor.dtype} on {tensor.device}"
        marks = {"trained": tensor.requires_grad, "not saved": name not in persistent}
        owner = owners.setdefault(tensor, name)
        tied = [] if owner == name else [f"tied to {owner!r}"]
        layout[name] = ", ".join([form, *(mark for mark, applies in marks.items() if applies), *tied])
    strange = [name for name in persistent if name not in layout]
    if strange:
        raise CannotStack(f"a stack needs a state of parameters and buffers only, {strange[0]!r} is neither")
    return layout


def _module_line(module: nn.Module) -> str:
    """Its class, settings, mode and hooks; not the class itself, since parametrised modules have one each."""
    shown = re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(module).split()))
    mode = "training" if module.training else "evaluation"
    hooks = f", with {n} hook{'s' * (n > 1)}" if (n := n_hooks(module)) else ""
    return f"{shown} ({type(module).__module__}.{type(module).__qualname__}, in {mode} mode{hooks})"


def n_hooks(module: nn.Module) -> int:
    """How many hooks of any kind are registered on the module itself."""
    return sum(len(held) for name, held in vars(module).items() if name.endswith("_hooks") and isinstance(held, dict))


def _with_stacked_tensors(networks: Sequence[nn.Module]) -> nn.Module:
    """A copy of the first network that holds the tensors of all, stacked; tied ones are one tensor here too."""
    single = copy.deepcopy(networks[0])
    copies = [_tensors(network) for network in networks]
    stacked: dict[Tensor, Tensor] = {}
    for name, first in copies[0].items():
        if first not in stacked:
            together = torch.stack([tensors[name].detach() for tensors in copies])
            is_parameter = isinstance(first, nn.Parameter)
            stacked[first] = nn.Parameter(together, first.requires_grad) if is_parameter else together
        _put(single, name, stacked[first])
    return single


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all their names."""
    return {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }


def _held(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, once for each module that holds them.

    Tied tensors of two modules are both here, what is in a module with two names is not: `functional_call` would take it out
    twice, and put back the wrong one.
    """
    held: dict[str, Tensor] = {}
    for path, module in network.named_modules():
        held |= module.named_parameters(path, recurse=False, remove_duplicate=False)
        held |= module.named_buffers(path, recurse=False, remove_duplicate=False)
    return held


def _put(network: nn.Module, name: str, tensor: Tensor) -> None:
    """Have the network hold this tensor under the name."""
    path, _, last = name.rpartition(".")
    setattr(network.get_submodule(path), last, tensor)


def _innermost(error: Exception) -> str:
    """The class of the module whose code was running."""
    owners = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [type(owner).__name__ for owner in owners if isinstance(owner, nn.Module)]
    return modules[-1] if modules else FunctionalStack.__name__


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
