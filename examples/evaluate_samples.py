"""Judge samples: KID against held-out images, beside the floor that training images have."""

import markovae as mv

digits = mv.load_data("digits")
model = mv.create(mv.Config().with_settings(["network.width=16", "network.blocks=1"]), digits.train)
for _ in mv.fit(model, digits, steps=5, precision="float32"):
    pass
record = mv.evaluate(model, digits, n=40, sampler="dpmpp2m", steps=5)
print(f"KID {record.kid}")
