import shutil
from pathlib import Path

import pytest

from markovae.build import create
from markovae.checkpoints.writing import save_checkpoint
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.training.trainer import Training

STATE = {"shape": [1, 4, 4], "bins": 256, "class_names": ["left", "right"], "data": {}}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config, tiny_data: ImageData) -> Path:
    """A run with checkpoints of steps 2 and 4; tests leave it as it is."""
    run = tmp_path_factory.mktemp("trained")
    model = create(tiny_config, tiny_data.shape, num_classes=2)
    training = Training(model, tiny_data, tiny_config.train)
    for step in range(1, 5):
        training.advance()
        if step % 2 == 0:
            tensors, position = training.capture()
            save_checkpoint(run / "checkpoints", step, tensors, {**position, **STATE}, tiny_config)
    return run


@pytest.fixture
def saved(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained` for one test to damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
