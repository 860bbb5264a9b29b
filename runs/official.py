"""The official AutoAttack, where the package pyautoattack is installed: what the runs measure our attacks against."""

import importlib
import importlib.util
import logging
import warnings

import torch
from torch import Tensor, nn

NAME = "AutoAttack, standard"


def installed() -> bool:
    """Whether it can be asked."""
    return importlib.util.find_spec("pyautoattack") is not None


def autoattack(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, batch_size: int = 250) -> Tensor:
    """What AutoAttack's standard version makes of x; it seeds PyTorch's own generators, which are put back."""
    peer = importlib.import_module("pyautoattack")
    logging.disable(logging.CRITICAL)
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attack = peer.AutoAttack(model, device=x.device, eps=eps, seed=0, version="standard")
        x_adv: Tensor = attack.run_standard_evaluation(x, y, batch_size=batch_size)[0]
    logging.disable(logging.NOTSET)
    return x_adv
