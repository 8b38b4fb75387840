"""Save any model and load it again: weights, schedule, target and variance are in one verified folder."""

import tempfile

import markovae as mv

digits = mv.load_data("digits")
config = mv.Config().with_settings(["network.width=16", "network.blocks=1", "target.reverse=isotropic"])
model = mv.create(config, digits.train)
for _ in mv.fit(model, digits, steps=5, fit_images=16, precision="float32"):
    pass
with tempfile.TemporaryDirectory() as folder:
    path = mv.save(model, f"{folder}/digits")
    again = mv.load(path)
    run = mv.load_run(path)
print(sorted(run.checkpoint.contents))
print(mv.sample(again, 4, steps=5, seed=1).tobytes() == mv.sample(model, 4, steps=5, seed=1).tobytes())
