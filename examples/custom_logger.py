"""Send the numbers of a run anywhere: any object with `log(values, step)` is a logger."""

import markovae as mv


class BestHeldOut:
    """Remember the lowest held-out bits/dim, and the step that gave it."""

    def __init__(self) -> None:
        self.best, self.step = float("inf"), 0

    def log(self, values: dict[str, float], step: int) -> None:
        """Take in one row of metrics.jsonl, such as {"train/loss": 0.12, "train/lr": 0.003}."""
        bits = values.get("heldout/bits_per_dim/mean", float("inf"))
        if bits < self.best:
            self.best, self.step = bits, step


settings = ["train.steps=20", "train.evaluations=2", "train.grids=0", "train.precision=float32"]
small = ["network.width=8", "network.blocks=1", "network.multipliers=[1]", "network.attention=[]", "network.patch=1"]
logger = BestHeldOut()
run = mv.train("digits", "runs/digits", mv.Config().with_settings(settings + small), loggers=[logger], progress=False)
print(f"{run.path}: at best {logger.best:.3f} bits/dim, at step {logger.step}")
