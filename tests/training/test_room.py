"""Memory that runs out, activations that are not kept, and networks that are compiled: always the same training."""

import copy
from functools import partial

import pytest
import torch

from markovae.build import create
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.errors import StoppedRun, UserError
from markovae.networks.network import Network
from markovae.system.memory import halved, out_of_memory, within_memory
from markovae.training import precision as preparing
from markovae.training.trainer import Training

CPU = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
KINDS = {
    "unet": ["network.width=16", "network.multipliers=[1,2]", "network.attention=[1]", "network.patch=1"],
    "ddpm": [
        "network.kind=ddpm",
        "network.ddpm.widths=[8,16]",
        "network.ddpm.groups=4",
        "schedule.kind=linear",
        "target.name=noise",
    ],
    "dit": ["network.kind=dit", "network.dit.width=32", "network.dit.depth=2", "network.dit.head_dim=16"],
}


def training(config: Config, data: ImageData, settings: list[str] = []) -> Training:  # noqa: B006
    config = config.with_settings(["train.steps=4", "train.label_dropout=0.5", *settings])
    return Training(create(config, data.shape, num_classes=2), data, config.train)


def losses(run: Training) -> list[float]:
    return [run.advance().loss for _ in range(4)]


class Small:
    """A loss for which memory is out above so many images at a time, on the way back of the part that is too many."""

    def __init__(self, run: Training, images: int, error: Exception) -> None:
        self.loss, self.images, self.error, self.seen = run.loss, images, error, []
        self.backward, run.loss.backward = run.loss.backward, self

    def __call__(self, network, batch, size, dtype):
        self.seen.append(len(batch.example))
        made = self.backward(network, batch, size, dtype)
        if len(batch.example) > self.images:
            raise self.error
        return made


def test_where_memory_runs_out_the_same_batches_go_on_in_parts(tiny_config, tiny_data, capsys):
    plain, run = training(tiny_config, tiny_data), training(tiny_config, tiny_data)
    small = Small(run, 2, RuntimeError(CPU))
    torch.testing.assert_close(torch.tensor(losses(run)), torch.tensor(losses(plain)), rtol=1e-5, atol=0)
    assert small.seen[:6] == [8, 4, 2, 2, 2, 2]
    assert set(small.seen[6:]) == {2}
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" parts")[0].split()[-1] for line in said] == ["2", "4"]
    # Just as if it had been asked for: the wasted passes left nothing behind.
    asked = training(tiny_config, tiny_data, ["train.accumulate=4"])
    losses(asked)
    for mine, theirs in zip(run.model.parameters(), asked.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    fresh = training(tiny_config, tiny_data)
    fresh.restore(*copy.deepcopy(run.capture()))
    assert fresh.num_microbatches == 4


def test_one_image_too_large_and_other_errors_stop(tiny_config, tiny_data):
    run = training(tiny_config, tiny_data)
    Small(run, 0, RuntimeError(CPU))
    with pytest.raises(StoppedRun, match=r"single image: set train\.checkpointing=true"):
        run.advance()
    run = training(tiny_config, tiny_data)
    Small(run, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        run.advance()
    with pytest.raises(StoppedRun, match="3 images in one of several processes"):
        halved(3, 8, alone=False)
    assert [halved(parts, 10, alone=True) for parts in (1, 2, 8, 9)] == [2, 4, 10, 10]
    assert not out_of_memory(KeyboardInterrupt())
    for error in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU), MemoryError()):
        assert out_of_memory(error)


def test_the_cpu_allocator_is_known_by_its_words():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)


@pytest.mark.parametrize(("kind", "precision"), [("unet", "float32"), ("ddpm", "bfloat16"), ("dit", "float32")])
def test_activations_computed_again_give_the_same_bits(tiny_config, tiny_data, kind, precision):
    if kind == "ddpm" or kind == "dit":
        tiny_config = Config().with_settings(["train.batch=8", "train.warmup_steps=0"])
    settings = [*KINDS[kind], f"train.precision={precision}"]
    if kind != "dit":
        settings.append(f"network.{'ddpm.' if kind == 'ddpm' else ''}dropout=0.3")
    kept = training(tiny_config, tiny_data, settings)
    again = training(tiny_config, tiny_data, [*settings, "train.checkpointing=true"])
    stored = [0, 0]
    for index, run in enumerate((kept, again)):
        for _ in range(3):  # what begins at zero has moved by the third

            def keep(x: torch.Tensor, index: int = index) -> torch.Tensor:
                stored[index] += x.numel()
                return x

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
                run.advance()
    assert stored[1] < 0.7 * stored[0]
    for mine, theirs in zip(again.model.parameters(), kept.model.parameters(), strict=True):
        assert mine.grad is not None
        assert torch.equal(mine.grad, theirs.grad)
        assert torch.equal(mine, theirs)


def test_only_networks_of_this_library_can_compute_again(tiny_config, tiny_data):
    config = tiny_config.with_settings(["train.checkpointing=true"])
    model = create(config, tiny_data.shape, num_classes=2)
    model.network = torch.nn.Sequential(model.network)
    with pytest.raises(UserError, match="networks of this library"):
        preparing.prepared(model, config.train)


@pytest.mark.filterwarnings("ignore")  # of torch.compile itself
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_a_compiled_network_trains_saves_and_resumes_like_any_other(tiny_config, tiny_data, monkeypatch, backend):
    monkeypatch.setattr(preparing, "_missing", lambda device: None)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    plain, run = training(tiny_config, tiny_data), training(tiny_config, tiny_data, ["train.compile=true"])
    assert not isinstance(run._network, Network)
    torch.testing.assert_close(torch.tensor(losses(run)), torch.tensor(losses(plain)), rtol=1e-4, atol=0)
    tensors, position = copy.deepcopy(run.capture())
    assert tensors["model"].keys() == plain.capture()[0]["model"].keys()
    assert not any("_orig_mod" in name for table in tensors.values() for name in table)
    resumed = training(tiny_config, tiny_data, ["train.compile=true"])
    resumed.restore(tensors, position)
    for mine, theirs in zip(resumed.model.parameters(), run.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_without_a_compiler_it_is_refused_in_a_sentence(tiny_config, tiny_data, monkeypatch):
    from torch._inductor import cpp_builder, exc

    def missing() -> str:
        raise exc.InvalidCxxCompiler()

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    with pytest.raises(UserError, match=r"no C\+\+ compiler .* leave train\.compile out"):
        training(tiny_config, tiny_data, ["train.compile=true"])
    settings = ["train.compile=true", "schedule.kind=learned", "train.objective=bound"]
    with pytest.raises(UserError, match=r"does not go with schedule\.kind=learned"):
        training(tiny_config, tiny_data, settings)
    with pytest.raises(UserError, match=r"does not go with train\.parallel=fsdp"):
        training(tiny_config, tiny_data, ["train.compile=true", "train.parallel=fsdp"])
    with pytest.raises(UserError, match="mps is not compiled for"):
        preparing.compiled(torch.nn.Identity(), torch.device("mps"))


def test_work_that_does_not_fit_is_done_in_smaller_parts():
    tried = []

    def work(size: int, fits: int) -> str:
        tried.append(size)
        if size > fits:
            raise RuntimeError(CPU)
        return "done"

    assert within_memory(partial(work, fits=3), 20) == "done"
    assert tried == [20, 10, 5, 3]
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        within_memory(partial(work, fits=0), 5)
    with pytest.raises(RuntimeError, match="another"):
        within_memory(lambda size: (_ for _ in ()).throw(RuntimeError("another")), 5)


def test_the_last_fit_is_made_in_what_memory_there_is(tiny_config: Config, tiny_data: ImageData, monkeypatch):
    sizes = []

    def fit(model, images, labels, *, seed, batch):
        sizes.append(batch)
        if batch > 16:
            raise RuntimeError(CPU)

    monkeypatch.setattr("markovae.likelihood.fitting.fit_stages", fit)
    config = tiny_config.with_settings(["target.reverse=isotropic"])
    run = Training(create(config, tiny_data.shape, num_classes=2), tiny_data, config.train)
    run.fit_variance()
    assert sizes == [64, 32, 16]
