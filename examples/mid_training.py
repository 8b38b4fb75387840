"""In the middle of a training: samples, held-out bits and a checkpoint of the averaged model."""

import tempfile
from pathlib import Path

import markovae as mv

digits = mv.load_data("digits")
model = mv.create(mv.Config().with_settings(["network.width=16", "network.blocks=1"]), digits.train)
with tempfile.TemporaryDirectory() as folder:
    for step in mv.fit(model, digits, steps=20, precision="float32"):
        if step.index % 10 == 0:
            validation = digits.validation.images[:8], digits.validation.labels[:8]
            bits = mv.measure(step.ema, *validation, draws=2).bits_per_dim
            images = mv.sample(step.ema, 4, steps=5)
            saved = mv.save(step.ema, Path(folder) / f"step-{step.index}")
            print(f"step {step.index}: {bits.value:.2f} bits/dim, {len(images)} images, saved as {saved.name}")
