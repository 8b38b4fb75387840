from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from markovae.data.data_config import DataConfig
from markovae.data.images import ImageData
from markovae.data.loading import load_data, read_source
from markovae.data.shard_format import write_shards
from markovae.data.strips import KeptStrips
from markovae.diffusion.objective import Objective, uniform_levels
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.schedule import LogSNRLinear
from markovae.errors import UserError
from markovae.system.processes import Rank
from markovae.training.batches import Batch, Batches

LAW = uniform_levels(LogSNRLinear(1000))
OBJECTIVE = Objective(LAW, torch.ones_like(LAW))


def batches(data: ImageData, batch: int = 8, **settings) -> Batches:
    return Batches(data, Pixels(), OBJECTIVE, seed=5, batch=batch, **settings)


def same(a: Batch, b: Batch) -> bool:
    pairs = [(a.x, b.x), (a.example, b.example), (a.draw.level, b.draw.level), (a.draw.noise, b.draw.noise)]
    return all(torch.equal(*pair) for pair in [*pairs, (a.keep, b.keep), (a.label, b.label)])


def test_every_epoch_takes_every_image_once_though_the_batch_does_not_divide_it(tiny_data: ImageData):
    made = batches(tiny_data)
    examples = torch.cat([made.at(step).example for step in range(10)])  # 80 = 4 epochs of 20
    for epoch in range(4):
        assert sorted(examples[20 * epoch : 20 * epoch + 20].tolist()) == list(range(20))
    assert not torch.equal(examples[:20], examples[20:40])


def test_a_batch_does_not_depend_on_what_was_drawn_before_it(tiny_data: ImageData):
    made = batches(tiny_data, flip=True, label_dropout=0.3)
    forward = [made.at(step) for step in range(8)]
    backward = [batches(tiny_data, flip=True, label_dropout=0.3).at(step) for step in reversed(range(8))]
    assert all(same(a, b) for a, b in zip(forward, reversed(backward), strict=True))


def test_a_batch_does_not_depend_on_threads(tiny_data: ImageData):
    alone = [batches(tiny_data).at(step) for step in range(12)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda step: batches(tiny_data).at(step), range(12)))
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_an_image_twice_in_a_batch_gets_two_noises(tiny_data: ImageData):
    made = batches(tiny_data.take(slice(0, 9)), batch=9)
    spanning = Batches(tiny_data.take(slice(0, 9)), Pixels(), OBJECTIVE, 5, 7)
    found = 0
    for step in range(40):
        batch = spanning.at(step)
        for example, count in Counter(batch.example.tolist()).items():
            if count > 1:
                first, second = batch.draw.noise[batch.example == example][:2]
                assert not torch.equal(first, second)
                found += 1
    assert found > 0
    assert len(set(made.at(0).example.tolist())) == 9


def test_levels_fill_the_schedule_evenly_at_every_step(tiny_data: ImageData):
    made = batches(tiny_data, batch=10)
    for step in range(5):
        tenths = (made.at(step).draw.level - 1) // 100
        assert sorted(tenths.tolist()) == list(range(10))


def test_noise_is_standard_normal_and_new_at_every_step(tiny_data: ImageData):
    made = batches(tiny_data)
    noise = torch.cat([made.at(step).draw.noise for step in range(100)]).flatten().double()
    count = len(noise)
    assert abs(float(noise.mean())) < 4 / count**0.5
    assert abs(float(noise.var()) - 1) < 4 * (2 / count) ** 0.5
    assert len(noise.unique()) > 0.99 * count


def test_flip_mirrors_about_half_and_keeps_the_rest(tiny_data: ImageData):
    plain, flipped = batches(tiny_data), batches(tiny_data, flip=True)
    mirrored = 0
    for step in range(25):
        a, b = plain.at(step), flipped.at(step)
        assert torch.equal(a.draw.noise, b.draw.noise)
        for before, after in zip(a.x, b.x, strict=True):
            turned = torch.equal(after, before.flip(-1))
            assert turned or torch.equal(after, before)
            mirrored += turned
    assert 70 < mirrored < 130  # of 200


def test_windows_of_longer_images_are_keyed_by_example_and_step():
    """Everywhere alike, whoever asks when, and nothing else that is drawn moves."""
    count, wide = 20, 12
    rows = np.arange(count * wide, dtype=np.uint8).reshape(count, 1, 1, wide).repeat(4, axis=2)
    start, size = np.arange(count, dtype=np.int64) * 4 * wide, np.array([[4, wide]] * count, dtype=np.int64)
    data = ImageData(np.ascontiguousarray(rows[:, :, :, 4:8]), np.zeros(count, np.int64), ("a",))
    cut = replace(data, strips=KeptStrips(rows.reshape(-1), start, size, (1, 4, 4)))
    plain, moved = batches(data), batches(cut)
    seen = Counter[int]()
    for step in range(60):
        a, b = plain.at(step), moved.at(step)
        assert torch.equal(a.draw.noise, b.draw.noise)
        assert torch.equal(a.keep, b.keep)
        first = Pixels().to_pixel_values(b.x)[:, 0, 0, 0] - b.example * wide
        seen.update(first.tolist())
    assert set(seen) == set(range(wide - 4 + 1))
    assert min(seen.values()) > 480 / 9 / 2
    assert same(batches(cut).at(59), b)
    for rank in range(2):
        first, stop = Rank(rank, 2).share(8)
        assert same(batches(cut).at(7, (first, stop)), moved.at(7).part(first, stop))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_labels_are_dropped_at_their_share(tiny_data: ImageData, share: float):
    made = batches(tiny_data, label_dropout=share)
    kept = torch.cat([made.at(step).keep for step in range(100)]).double().mean()
    assert float(kept) == pytest.approx(1 - share, abs=0.06 if 0 < share < 1 else 0)


def test_images_and_labels_are_those_of_the_examples(tiny_data: ImageData):
    batch = batches(tiny_data).at(3)
    digits = torch.from_numpy(tiny_data.images[batch.example.numpy()])
    assert torch.equal(batch.x, Pixels().to_x(digits, torch.float32))
    assert batch.label.tolist() == tiny_data.labels[batch.example.numpy()].tolist()
    assert batches(replace(tiny_data, labels=None, class_names=())).at(0).label is None


def test_sixteen_bit_and_mapped_images_are_read_alike(tmp_path):
    images = np.arange(20 * 16, dtype=np.uint16).reshape(20, 1, 4, 4) * 100
    np.save(tmp_path / "a.npy", images)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    pixels = Pixels(65_536)
    made = [Batches(ImageData(i, bins=65_536), pixels, OBJECTIVE, 0, 4).at(2).x for i in (images, mapped)]
    assert torch.equal(*made)
    assert float(made[0].max()) > -1


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_the_parts_of_several_processes_are_the_batch(tiny_data: ImageData, size: int):
    """With nothing drawn for the others: a part's draws are those that the whole has there."""
    made = batches(tiny_data, flip=True, label_dropout=0.3)
    for step in range(4):
        whole = made.at(step)
        for rank in range(size):
            start, stop = Rank(rank, size).share(8)
            part = batches(tiny_data, flip=True, label_dropout=0.3).at(step, (start, stop))
            assert same(part, whole.part(start, stop))
            assert torch.equal(part.quantile, whole.quantile[start:stop])
        indices_of = made.indices_of(step)
        assert torch.equal(indices_of.example, whole.example)
        assert torch.equal(indices_of.level, whole.draw.level)


def test_images_in_shards_are_taken_in_windows_of_them(tiny_data: ImageData, tmp_path: Path):
    source = tmp_path / "images.npy"
    np.save(source, np.random.default_rng(0).integers(0, 256, (250, 4, 4), dtype=np.uint8))
    config = DataConfig(str(source))
    write_shards(read_source(config), tmp_path / "shards", 5)
    data = load_data(DataConfig(str(tmp_path / "shards"))).train
    made = batches(data, 10)
    examples = torch.cat([made.at(step).example for step in range(20)])
    assert sorted(examples.tolist()) == list(range(200))
    assert len({e // 5 for e in examples[:80].tolist()}) == 16, "sixteen shards at a time"
    assert torch.equal(made.at(7).x, batches(data, 10).at(7).x)
    whole = ImageData(np.asarray(data.images))
    assert torch.equal(made.at(7).x, Pixels().to_x(torch.from_numpy(whole.images[made.at(7).example]), torch.float32))


@pytest.mark.parametrize(("count", "words"), [(1, "there is only 1 image"), (7, "there are only 7 images")])
def test_fewer_images_than_a_batch_is_told(tiny_data: ImageData, count: int, words: str):
    with pytest.raises(
        UserError, match=rf"train\.batch=8 but {words} to train on: set train\.batch to at most {count}"
    ):
        batches(tiny_data.take(slice(0, count)))
