"""The paper, whole: a plan of independent tasks, played by worker processes, then gathered into records.

Every task writes its own files and is skipped where they are complete, so a reproduction that was stopped goes on.
"""

from sparring.reproduction.plan import Plan
from sparring.reproduction.reproduce import evaluate_folder, reproduce, train_seeds

__all__ = ["Plan", "evaluate_folder", "reproduce", "train_seeds"]
