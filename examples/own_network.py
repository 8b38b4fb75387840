"""A network of your own: any torch module of (z, logsnr, condition) trains, saves, loads, samples and is measured."""

import tempfile

import torch
from torch import nn

import markovae as mv


class Net(nn.Module):
    """Three convolutions that see the log-SNR; `config` holds the arguments that make it again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.config = {"width": width}
        self.first = nn.Conv2d(2, width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, z: torch.Tensor, logsnr: torch.Tensor, condition: mv.Condition | None = None) -> torch.Tensor:
        """(B, 1, H, W) and (B,) to (B, 1, H, W)."""
        seen = torch.cat([z, (logsnr / 10).to(z.dtype)[:, None, None, None].expand_as(z)], 1)
        return self.last(torch.relu(self.middle(torch.relu(self.first(seen)))))


digits = mv.load_data("digits")
model = mv.create(mv.Config(), digits.train, network=Net(16))
for step in mv.fit(model, digits, steps=20, precision="float32"):
    print(f"step {step.index}: loss {step.loss:.3f}", end="\r")
with tempfile.TemporaryDirectory() as folder:
    mv.save(model, f"{folder}/mine")
    again = mv.load(f"{folder}/mine", trust=(f"{__name__}:Net",))  # its code runs only where you name it
    print(mv.sample(again, 4, steps=5).shape)
    # A run with checkpoints, that resumes: on the command line, --trust MODULE:Net opens it everywhere.
    config = mv.Config().with_settings(["train.steps=20", "train.evaluations=0"])
    run = mv.train("digits", f"{folder}/run", config, network=Net(16), progress=False)
    print(mv.measure(run.model, digits.test.images[:8], draws=2).bits_per_dim)
