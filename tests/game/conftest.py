"""A sound checkpoint, for all tests of checkpoints."""

from pathlib import Path

import pytest
from checkpoints import players, position

from sparring.game.checkpoint import save_checkpoint


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint-000000027.safetensors"
    save_checkpoint(path, players(), position(), {"log_length": 12, "config": "é"})
    return path
