"""`import_run` of a file of weights: whose they are, in which convention, and what does not fit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.interop.foreign import Small
from torch import Tensor

import markovae as mv
from markovae.cli.entry import main
from markovae.config import Config
from markovae.diffusion.model import Diffusion
from markovae.diffusion.schedule import cosine
from markovae.errors import UserError
from markovae.interop.importing import import_run
from markovae.interop.weights import to_theirs
from markovae.interop.wrapping import wrap

NAME = "tests.interop.foreign:Small"
OWN = ["network.kind=own", f"network.own.name={NAME}", "network.own.predicts=pred_v", "data.size=8"]
GRID = ["schedule.kind=cosine", "schedule.num_levels=20"]


def made(seed: int = 0, **arguments: object) -> Small:
    torch.manual_seed(seed)
    return Small(**arguments)


def config(*settings: str) -> Config:
    return Config().with_settings([*OWN, *settings])


def brought(path: Path, out: Path, *settings: str) -> Diffusion:
    import_run(path, out, config(*GRID, *settings), trust=[NAME])
    return mv.load(out, trust=[NAME])


def denoised(model: Diffusion) -> Tensor:
    z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return model.denoise(z, model.schedule.logsnr[7])


def test_a_checkpoint_becomes_the_run_of_its_wrapped_network(tmp_path: Path) -> None:
    net, average = made(), made(1)
    ema = {f"ema_model.model.{name}": value for name, value in average.state_dict().items()}
    torch.save({"step": 7, "model": net.state_dict(), "ema": {"step": torch.tensor(7), **ema}}, tmp_path / "m.pt")
    model = brought(tmp_path / "m.pt", tmp_path / "run")
    assert torch.equal(denoised(model), denoised(wrap(average, (3, 8, 8), cosine(20), "pred_v")))
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert mv.measure(model, images).bits_per_dim.value == pytest.approx(
        mv.measure(wrap(average, (3, 8, 8), cosine(20), "pred_v"), images).bits_per_dim.value
    )
    with pytest.raises(UserError, match=r"--trust tests\.interop.foreign:Small"):
        mv.load(tmp_path / "run")


@pytest.mark.parametrize("settings", [["network.own.data_range=[0, 1]"], ["network.own.self_conditioning=true"]])
def test_ranges_and_self_conditioning_are_kept(settings: list[str], tmp_path: Path) -> None:
    known = "self_conditioning" in settings[0]
    net = made(known=known)
    save_file(net.state_dict(), tmp_path / "m.safetensors")
    arguments = ['network.own.arguments={"known": true}'] if known else []
    model = brought(tmp_path / "m.safetensors", tmp_path / "run", *settings, *arguments)
    options = {"self_conditioning": True} if known else {"data_range": (0.0, 1.0)}
    expected = wrap(net, (3, 8, 8), cosine(20), "pred_v", **options)
    torch.testing.assert_close(model.schedule.logsnr, expected.schedule.logsnr)
    torch.testing.assert_close(denoised(model), denoised(expected))


def test_a_convention_with_a_time_of_its_own_needs_no_schedule(tmp_path: Path) -> None:
    torch.save(made().half().state_dict(), tmp_path / "m.pt")
    chosen = Config().with_settings([*OWN[:2], "network.own.predicts=flow", "data.size=8"])
    model = import_run(tmp_path / "m.pt", tmp_path / "run", chosen, trust=[NAME])
    assert (model.target.name, model.num_levels) == ("flow", 1000)
    expected = wrap(made().half().float(), (3, 8, 8), predicts="flow")
    assert torch.equal(denoised(model), denoised(expected))
    counted = Config().with_settings(OWN)
    with pytest.raises(UserError, match=r"predicts=pred_v counts the steps of a grid: set schedule\.kind"):
        import_run(tmp_path / "m.pt", tmp_path / "other", counted, trust=[NAME])


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    def refused(state: object, said: str, *settings: str) -> None:
        torch.save(state, tmp_path / "m.pt")
        with pytest.raises(UserError, match=said):
            import_run(tmp_path / "m.pt", tmp_path / "run", config(*GRID, *settings), trust=[NAME])
        assert not (tmp_path / "run").exists()

    whole = made().state_dict()
    refused({k: v for k, v in whole.items() if k != "last.bias"}, "has 7 of the 8 weights .*lacks 'last.bias'")
    refused({"other": torch.zeros(2)}, "has 0 of the 8 weights of the network Small")
    refused(made(width=6).state_dict(), r"'first.weight' has shape \(6, 3, 3, 3\), and the network Small takes")
    refused({**whole, "last.scale": torch.ones(1)}, "a weight 'last.scale', for which the network Small has no place")
    refused({**whole, "last.bias": torch.full((3,), torch.nan)}, "'last.bias' holds values that are not finite")
    refused({**whole, "last.bias": torch.ones(3, dtype=torch.int64)}, "'last.bias' holds values that are not finite")
    refused({**whole, "rates": torch.zeros(3)}, "the buffer 'rates' of the network Small has numbers of its own")
    refused(whole, "cannot be made from", 'network.own.arguments={"depth": 3}')
    refused(whole, "must be one of noise, ", "network.own.predicts=nois")
    with pytest.raises(UserError, match="a class outside markovae, and loading it runs its code"):
        import_run(tmp_path / "m.pt", tmp_path / "run", config(*GRID))
    with pytest.raises(UserError, match=r"is a file of weights: set network\.kind"):
        import_run(tmp_path / "m.pt", tmp_path / "run")
    with pytest.raises(UserError, match="is not a file: a pipeline's folder brings"):
        import_run(tmp_path, tmp_path / "run", config(*GRID))


@pytest.mark.parametrize("prefix", [None, "", "unet."])
def test_weights_of_one_of_ours_by_either_name(prefix: str | None, tmp_path: Path) -> None:
    shape = ["network.ddpm.widths=[8, 8]", "network.ddpm.blocks=1", "network.ddpm.groups=4", "data.size=8"]
    chosen = Config().with_settings(["network.kind=ddpm", *shape, *GRID])
    first = mv.create(chosen, (3, 8, 8))
    state = dict(first.network.named_parameters())
    if prefix is not None:
        state = {f"{prefix}{name}": value for name, value in to_theirs(first.network, state).items()}
    torch.save({"weights": {name: value.detach() for name, value in state.items()}}, tmp_path / "m.pt")
    model = import_run(tmp_path / "m.pt", tmp_path / "run", chosen)
    assert torch.equal(denoised(model), denoised(first.eval()))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(made().state_dict(), tmp_path / "m.pt")
    settings = [part for text in [*OWN[2:], *GRID] for part in ("--set", text)]
    out = str(tmp_path / "run")
    assert main(["import", str(tmp_path / "m.pt"), "--as", NAME, "--out", out, *settings]) == 0
    assert f"markovae sample {out} --trust {NAME}" in capsys.readouterr().out
    assert main(["measure", out, "faces", "--trust", NAME]) == 2
    assert main(["import", str(tmp_path / "m.pt"), "--out", f"{out}2", *settings]) == 2
    assert "--set belongs to a file of weights: name its network with --as" in capsys.readouterr().err


def test_labels_are_always_given_to_a_network_that_takes_them(tmp_path: Path) -> None:
    torch.save(made(known=True).state_dict(), tmp_path / "m.pt")
    arguments = 'network.own.arguments={"known": true}'
    chosen = config(*GRID, arguments)
    model = import_run(tmp_path / "m.pt", tmp_path / "run", chosen, classes=2, trust=[NAME])
    assert not model.null_trained
    with pytest.raises(UserError, match=r"label|class"):
        mv.sample(model, 2, steps=2, labels="none")
