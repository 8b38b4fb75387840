"""diffusers as the judge: it is imported here and in benchmarks/, never by the package."""

import os

import pytest
from tests.interop.pipelines import TINY


@pytest.fixture(scope="session")
def diffusers():
    """The package, kept off the network."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    return diffusers


@pytest.fixture
def pipeline(diffusers):
    """make(unet settings, **scheduler settings): a pipeline with random weights that no term of it hides."""
    import torch

    def make(unet: dict | None = None, **scheduler):
        torch.manual_seed(3)
        network = diffusers.UNet2DModel(**{**TINY, **(unet or {})})
        made = diffusers.DDPMPipeline(network, diffusers.DDPMScheduler(**{"num_train_timesteps": 30, **scheduler}))
        made.set_progress_bar_config(disable=True)
        return made

    return make
