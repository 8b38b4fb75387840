"""Data of your own: arrays, a torch Dataset, a DataLoader, or anything that can be iterated."""

import itertools

import torch
from torch.utils.data import DataLoader, Dataset

import markovae as mv


class Squares(Dataset):
    """(a float image in [0, 1], 0 or 1): a bright left or right half."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.full((1, 8, 8), 0.1)
        image[:, :, 4 * (index % 2) : 4 * (index % 2) + 4] = 0.9
        return image, index % 2


config = mv.Config().with_settings(["network.width=16", "network.blocks=1"])
squares = Squares()
sources = {
    "a data set, in a keyed order that a resumed training repeats": squares,
    "a loader, in its own order": DataLoader(squares, batch_size=10, shuffle=True),
    "a stream without an end": (squares[number] for number in itertools.count()),
    "arrays": (torch.randint(0, 256, (40, 1, 8, 8)), torch.arange(40) % 2),
}
for name, data in sources.items():
    model = mv.create(config, (1, 8, 8), num_classes=2)
    *_, last = mv.fit(model, data, steps=4, flip=True, precision="float32")
    print(f"{name}: loss {last.loss:.3f}")
