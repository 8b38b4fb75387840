"""A training loop of your own: torch's optimizer and DataLoader, the model's loss, an average of the weights."""

import torch
from torch.utils.data import DataLoader, TensorDataset

import markovae as mv

STEPS = 20

digits = mv.load_data("digits").train
model = mv.create(mv.Config().with_settings(["network.width=16", "network.blocks=1"]), digits)
images, labels = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
loader = DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
ema = mv.EMA(model)
for step, (batch, classes) in zip(range(STEPS), loader, strict=False):
    condition = mv.Condition(label=classes).drop(torch.rand(len(classes)) > 0.1)  # for guidance later
    loss = model.loss(batch, condition)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    ema.update()
    if step % 5 == 0:
        print(f"step {step}: loss {loss.item():.3f}")
print(mv.sample(ema.model, 4, steps=5).shape)
