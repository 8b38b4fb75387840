"""`mv.save` and `mv.load`: every model, networks of the caller's own among them."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import markovae as mv
from markovae.build import UntrustedNetworkError
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.diffusion.schedule import cosine
from markovae.errors import UserError
from markovae.training.optimizers import split_weights

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    num_classes = 2

    def __init__(self, width):
        super().__init__()
        self.config = {"width": width}
        self.label = nn.Embedding(3, width)
        self.first, self.middle = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, z, logsnr, condition=None):
        label = torch.full((len(z),), 2, device=z.device)
        if condition is not None and condition.label is not None:
            label = condition.label if condition.keep is None else torch.where(condition.keep, condition.label, 2)
        h = torch.relu(self.first(z) + self.label(label)[:, :, None, None] + logsnr.float()[:, None, None, None] / 10)
        return self.last(torch.relu(self.middle(h)))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The class of a module that nothing here has imported, importable until the test ends."""
    (tmp_path / "ownnet.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda width: __import__("ownnet").Net(width)
    sys.modules.pop("ownnet", None)


SMALL = ["network.width=8", "network.blocks=1", "network.embedding=16", "schedule.num_levels=24"]


@pytest.mark.parametrize(
    "settings",
    [
        SMALL,
        [*SMALL, "network.multipliers=[1]", "network.detail=false", "target.name=noise", "target.clip=1.0"],
        [*SMALL, "schedule.start=5.0", "schedule.end=-5.0", "target.pixels=centres", "target.decoder=softmax"],
        [*SMALL, "target.reverse=learned", "schedule.kind=linear", "train.label_dropout=0"],
        [*SMALL, "schedule.kind=learned", "train.objective=bound"],
        ["schedule.kind=constant", "schedule.delta=0.01", "schedule.num_levels=20", "network.width=8"],
        [
            "schedule.num_levels=8",
            "network.kind=dit",
            "network.dit.width=16",
            "network.dit.depth=1",
            "network.dit.head_dim=8",
        ],
        [
            "schedule.num_levels=8",
            "network.kind=ddpm",
            "network.ddpm.widths=[8]",
            "network.ddpm.attention=[0]",
            "network.ddpm.groups=4",
            "network.ddpm.null_class=true",
        ],
    ],
)
def test_a_saved_model_comes_back_to_the_bit(tmp_path: Path, settings: list[str]):
    model = mv.create(Config().with_settings([*settings, "network.classes=true"]), (1, 8, 8), num_classes=3).eval()
    model.requires_grad_(False)
    again = mv.load(mv.save(model, tmp_path / "model"))
    assert (again.clip, again.target.name, again.null_trained) == (model.clip, model.target.name, model.null_trained)
    assert torch.equal(again.schedule.logsnr, model.schedule.logsnr)
    images = torch.randint(0, 256, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    labels = mv.Condition(label=torch.tensor([0, 2]))
    assert torch.equal(again.bound(images, condition=labels).total, model.bound(images, condition=labels).total)


def test_a_fitted_variance_and_any_grid_are_saved(tmp_path: Path, tiny_data: ImageData):
    config = Config().with_settings([*SMALL, "network.multipliers=[1]"])
    model = mv.create(config, (1, 4, 4), num_classes=2)
    model = mv.with_reverse(model.on_grid(cosine(12)), "isotropic", tiny_data.images)
    with pytest.raises(UserError, match=r"on a sub-grid: save it as model\.on_grid\(model\.training_schedule\)"):
        mv.save(model, tmp_path / "model")
    model.training_schedule = model.schedule
    again = mv.load(mv.save(model, tmp_path / "model"))
    assert torch.equal(again.schedule.logsnr, model.schedule.logsnr)
    assert torch.equal(again.reverse.errors.error, model.reverse.errors.error)


def test_a_place_where_something_else_lies_is_left_alone(tmp_path: Path, tiny_model):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="exists and is no saved model: name a new folder"):
        mv.save(tiny_model, tmp_path)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
    target = mv.save(tiny_model, tmp_path / "model")
    assert mv.save(tiny_model, target) == target


def test_a_network_of_the_callers_own_lives_like_ours(tmp_path: Path, own, tiny_config: Config, tiny_data: ImageData):
    model = mv.create(tiny_config, tiny_data, network=own(6))
    steps = list(mv.fit(model, tiny_data, tiny_config.train, steps=3))
    assert len(steps) == 3
    path = mv.save(model, tmp_path / "model")
    again = mv.load(path, trust=("ownnet:Net",))
    assert again.network.config == {"width": 6}
    draws = [mv.sample(one, 2, steps=3, labels=torch.tensor([0, 1])) for one in (model, again)]
    assert (torch.as_tensor(draws[0]) == torch.as_tensor(draws[1])).all()
    found = [mv.measure(one, tiny_data.images[:4], tiny_data.labels[:4], draws=2) for one in (model, again)]
    assert found[0].bits_per_dim == found[1].bits_per_dim
    assert len(list(mv.fit(again, tiny_data, tiny_config.train, steps=2))) == 2


def test_a_class_that_is_not_trusted_is_named_and_not_imported(tmp_path: Path, own, tiny_config, tiny_data):
    path = mv.save(mv.create(tiny_config, tiny_data, network=own(6)), tmp_path / "model")
    sys.modules.pop("ownnet")
    for trust in ((), ("ownnet:Other",)):
        with pytest.raises(UntrustedNetworkError, match=r'is ownnet:Net, .* pass trust=\("ownnet:Net",\)'):
            mv.load(path, trust=trust)
        assert "ownnet" not in sys.modules
    gone = Config().with_settings(["network.kind=own", "network.own.name=ownnet:Gone"])
    with pytest.raises(UserError, match=r"ownnet:Gone cannot be imported"):
        mv.create(gone, (1, 4, 4), trust=("ownnet:Gone",))


def test_a_network_that_no_file_can_hold_is_refused(tmp_path: Path, tiny_config: Config, own):
    wrapped = mv.wrap(lambda z, t: 0 * z, (1, 4, 4), cosine(10))
    with pytest.raises(UserError, match="cannot be made from"):
        mv.save(wrapped, tmp_path / "model")
    running = own(6)
    running.norm = nn.BatchNorm2d(6)
    with pytest.raises(UserError, match=r"the buffers of ownnet:Net \(norm\..* are not saved"):
        mv.save(mv.create(tiny_config, (1, 4, 4), network=running), tmp_path / "model")
    other = own(6)
    other.config = {"width": 7}
    with pytest.raises(UserError, match="no configuration describes the network Net"):
        mv.save(mv.create(tiny_config, (1, 4, 4), network=other), tmp_path / "model")


def test_muon_has_the_hidden_matrices_of_a_plain_module(own):
    network = own(6)
    hidden, rest = split_weights(network)
    assert [id(weight) for weight in hidden] == [id(network.middle.weight)]
    assert len(hidden) + len(rest) == len(list(network.parameters()))


@pytest.mark.parametrize(("name", "arguments"), [("no colon", "{}"), ("a:b", "[1]"), ("a:b", "{")])
def test_an_own_network_that_is_no_class_or_no_object_is_refused(name: str, arguments: str):
    settings = ["network.kind=own", f"network.own.name={name}", f"network.own.arguments={json.dumps(arguments)}"]
    with pytest.raises(UserError, match=r"network\.own\.(name|arguments)"):
        Config().with_settings(settings)
