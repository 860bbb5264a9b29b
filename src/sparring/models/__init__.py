"""Networks for both players. Any nn.Module that takes inputs in [0, 1] and returns logits can stand in their place."""

from sparring.models.functional import FunctionalStack, check_stackable
from sparring.models.logits import TRIED, check_differentiable, checked_logits, tried, unchanged
from sparring.models.mlp import MLP, mlp
from sparring.models.normalize import Normalize
from sparring.models.stack import Shared, StackedMLP, check_single, copy_to, keep_copies, stack, stack_sizes

__all__ = [
    "MLP",
    "TRIED",
    "FunctionalStack",
    "Normalize",
    "Shared",
    "StackedMLP",
    "check_differentiable",
    "check_single",
    "check_stackable",
    "checked_logits",
    "copy_to",
    "keep_copies",
    "mlp",
    "stack",
    "stack_sizes",
    "tried",
    "unchanged",
]
