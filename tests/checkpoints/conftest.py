from pathlib import Path

import pytest

from markovae.build import create
from markovae.checkpoints.writing import save_checkpoint
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.training.trainer import Training

STATE = {"shape": [1, 4, 4], "bins": 256, "class_names": ["left", "right"], "data": {}}


@pytest.fixture
def saved(tmp_path: Path, tiny_config: Config, tiny_data: ImageData) -> Path:
    """A run with checkpoints of steps 2 and 4."""
    model = create(tiny_config, tiny_data.shape, num_classes=2)
    training = Training(model, tiny_data, tiny_config.train)
    for step in range(1, 5):
        training.advance()
        if step % 2 == 0:
            tensors, position = training.capture()
            save_checkpoint(tmp_path / "run" / "checkpoints", step, tensors, {**position, **STATE}, tiny_config)
    return tmp_path / "run"
