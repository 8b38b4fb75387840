"""Muon for the hidden matrices and AdamW for the rest, in one optimizer."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from markovae.diffusion.cascade import Model
from markovae.training.sharding import full_tensor, local_shard, shard_like
from markovae.training.train_config import TrainConfig

# The quintic a·s + b·s³ + c·s⁵ (Jordan et al. 2024): five rounds bring every singular value s above about 0.002
# of the largest into [0.68, 1.14].
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
BAND = (0.65, 1.25)
ADAM_EPS = 1e-8


def orthogonalise(matrices: Tensor) -> Tensor:
    """`orthogonalise_all` of one shape, (..., rows, columns)."""
    return orthogonalise_all([matrices.reshape(-1, *matrices.shape[-2:])])[0].reshape(matrices.shape)


def orthogonalise_all(stacks: Sequence[Tensor]) -> list[Tensor]:
    r"""Nearest orthogonal matrices, roughly: U V' with singular values brought into `BAND`.

    Newton–Schulz on the Gram matrix: with X = M/‖M‖, G = X Xᵀ and Q = I, five rounds of

        P = a·I + b·G + c·G²,   Q ← P Q,   G ← P G P,   and at the end Q X.

    Q X is what five rounds X ← (a + b·XXᵀ + c·(XXᵀ)²) X give; for r rows and c ≫ r columns this multiplies
    r×r matrices only, so a flattened 3×3 convolution costs less than half. Float32 throughout, since the
    Gram matrix squares the condition number.

    The Gram matrices of one size are one batch, whatever the shapes of their matrices.

    Args:
        stacks: of matrices of one shape, (n, rows, columns) each.
    Returns: the same shapes, float32.
    Source: Jordan et al. 2024, "Muon".
    """
    wide = [(stack if stack.shape[-2] <= stack.shape[-1] else stack.mT).float() for stack in stacks]
    counts = [len(x) for x in wide]
    # By a power of two, which is exact: squares of what vanishes, or is huge, would leave float32.
    largest = torch.cat([torch.linalg.vector_norm(x, torch.inf, dim=(-2, -1), keepdim=True) for x in wide])
    scales = torch.ldexp(torch.ones_like(largest), -torch.frexp(largest).exponent.clamp(-100, 100)).split(counts)
    wide = [x * scale for x, scale in zip(wide, scales, strict=True)]
    wide = [x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-30) for x in wide]
    sizes: dict[int, list[int]] = defaultdict(list)
    for index, x in enumerate(wide):
        sizes[x.shape[-2]].append(index)
    for members in sizes.values():
        products = _newton_schulz(torch.cat([wide[index] @ wide[index].mT for index in members]))
        for index, product in zip(members, products.split([counts[index] for index in members]), strict=True):
            wide[index] = product @ wide[index]
    return [x if x.shape[-2:] == stack.shape[-2:] else x.mT for x, stack in zip(wide, stacks, strict=True)]


def _newton_schulz(gram: Tensor) -> Tensor:
    """Q after the rounds, from G = X Xᵀ, (n, r, r)."""
    a, b, c = COEFFICIENTS
    product = gram
    for index in range(ROUNDS):
        step = b * gram
        step.diagonal(dim1=-2, dim2=-1).add_(a)
        step.add_((gram @ gram).mul_(c))
        product = step @ product if index else step
        if index < ROUNDS - 1:
            gram = step @ gram @ step
    return product


def split_weights(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Hidden weight matrices (for Muon), and the rest: outer weights, norms, biases (for AdamW).

    A network of the caller's own says which are outer as ours do, by `outer_weights()`; where it has none, they are its
    embeddings and its first and last matrix, in the order in which they were defined.
    """
    named: Any = getattr(network, "outer_weights", None)
    if named is not None:
        outer = {id(weight) for weight in named()}
    else:
        tables = {id(part.weight) for part in network.modules() if isinstance(part, nn.Embedding)}
        matrices = [id(w) for w in network.parameters() if w.ndim >= 2 and id(w) not in tables]
        outer = tables | set(matrices[:1] + matrices[-1:])
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    hidden = [weight for weight in trained if weight.ndim >= 2 and id(weight) not in outer]
    chosen = {id(weight) for weight in hidden}
    return hidden, [weight for weight in trained if id(weight) not in chosen]


def split_model(model: nn.Module, network: nn.Module, optimizer: str) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The weights of Muon and those of AdamW, each in the order of the optimizer's state.

    Args:
        model: whose weights that take gradients are trained.
        network: the model's.
        optimizer: muon, or adamw.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    hidden = split_weights(network)[0] if optimizer == "muon" else []
    chosen = {id(weight) for weight in hidden}
    return hidden, [weight for weight in trained if id(weight) not in chosen]


@final
class MuonAdamW(torch.optim.Optimizer):
    r"""One optimizer of two groups: Muon for hidden matrices, AdamW for the rest.

    Muon, for a weight W flattened to out × rest and its gradient g:

        m ← μ m + (1 − μ) g,   u = orthogonalise((1 − μ) g + μ m),
        W ← (1 − lr·decay) W − lr · 0.2·√max(rows, columns) · u

    so that an entry of the step has about AdamW's size. AdamW is the usual one, with the same decay.

    Groups hold `lr` and `initial_lr`: a schedule sets lr = initial_lr · factor in both.

    Args:
        hidden: weights of at least two dimensions.
        rest: all others.
        lr: of Muon.
        adamw_lr: of AdamW.
        momentum: μ.
        betas: of AdamW.
        weight_decay: decoupled, both groups (norms and biases excepted).
    Errors: ValueError for a rate outside its range.
    Source: Jordan et al. 2024; the scale 0.2·√max from Liu et al. 2025; Loshchilov and Hutter 2019.
    """

    # torch keeps its compiler out of these two by a decorator that imports the whole of it, even where nothing is
    # compiled: 1.2 s and 40 MB at the start of every training.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)

    def __init__(
        self,
        hidden: Iterable[nn.Parameter],
        rest: Iterable[nn.Parameter],
        lr: float = 6e-3,
        adamw_lr: float = 2e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        for name, value in {"lr": lr, "adamw_lr": adamw_lr, "weight_decay": weight_decay}.items():
            if not value >= 0:
                raise ValueError(f"{name}={value} must be at least 0")
        for name, value in {"momentum": momentum, "betas[0]": betas[0], "betas[1]": betas[1]}.items():
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value} must lie in [0, 1)")
        matrices, others = list(hidden), list(rest)
        groups: list[dict[str, Any]] = [
            {"params": matrices, "matrix": True, "lr": lr},
            {"params": others, "matrix": False, "lr": adamw_lr},
        ]
        groups = [{**group, "initial_lr": group["lr"]} for group in groups if group["params"]]
        super().__init__(groups, {"momentum": momentum, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Apply one step; weights without a gradient stay, and so does their state."""
        if closure is not None:
            raise ValueError("this optimizer takes no closure: call backward first, then step()")
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                (self._step_matrices if group["matrix"] else self._step_others)(group, weights)

    def state_tensors(self) -> dict[str, Tensor]:
        """The state as flat named tensors, "<index of the weight>.<name>", ready for safetensors."""
        weights = [weight for group in self.param_groups for weight in group["params"]]
        return {
            f"{index}.{name}": value
            for index, weight in enumerate(weights)
            for name, value in self.state[weight].items()
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` gave; a name or shape that does not fit is an error."""
        weights = [weight for group in self.param_groups for weight in group["params"]]
        found: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for key, value in tensors.items():
            index, _, name = key.partition(".")
            fits = index.isdecimal() and int(index) < len(weights)
            if not fits or (name != "step" and value.shape != weights[int(index)].shape):
                raise ValueError(f"optimizer state {key!r} of shape {tuple(value.shape)} fits no weight here")
            weight = weights[int(index)]
            found[int(index)][name] = (
                value.to(weight.device).clone()
                if name == "step"
                else shard_like(value.to(weight.device), weight).clone()
            )
        self.state.clear()
        for number, state in found.items():
            self.state[weights[number]] = state

    def _step_matrices(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        grads = [weight.grad for weight in weights if weight.grad is not None]
        averages = []
        for weight in weights:
            state = self.state[weight]
            if not state:
                state["momentum"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
            averages.append(state["momentum"])
        torch._foreach_lerp_(averages, grads, 1 - group["momentum"])
        updates = torch._foreach_lerp(grads, averages, group["momentum"])
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        shapes: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, update in enumerate(updates):
            shapes[len(update), update[0].numel()].append(index)
        stacks = [
            full_tensor(torch.stack([updates[index].reshape(shape) for index in members]))
            for shape, members in shapes.items()
        ]
        for (shape, members), stack in zip(shapes.items(), orthogonalise_all(stacks), strict=True):
            size = group["lr"] * 0.2 * max(shape) ** 0.5
            held = [local_shard(weights[index]) for index in members]
            steps = [
                local_shard(shard_like(update.reshape(weights[index].shape).to(weights[index].dtype), weights[index]))
                for index, update in zip(members, stack, strict=True)
            ]
            torch._foreach_sub_(held, steps, alpha=size)

    def _step_others(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["first"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
                self.state[weight]["second"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
                self.state[weight]["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
        states = [self.state[weight] for weight in weights]
        torch._foreach_add_([state["step"] for state in states], 1)
        # Entry by entry, so of weights that are spread each process takes its own.
        entries = [
            (
                local_shard(weight),
                local_shard(weight.grad),
                local_shard(state["first"]),
                local_shard(state["second"]),
                state["step"],
            )
            for weight, state in zip(weights, states, strict=True)
            if weight.grad is not None
        ]
        # Norms and biases are not pulled to zero.
        for decay, matrices in ((group["weight_decay"], True), (0.0, False)):
            some = [entry for entry in entries if (entry[0].ndim >= 2) == matrices and entry[0].numel()]
            # One type at a time: on a GPU the fused step takes no mixture, and a learned schedule is float64.
            for dtype in dict.fromkeys(entry[0].dtype for entry in some):
                _adam([entry for entry in some if entry[0].dtype == dtype], group["lr"], group["betas"], decay)


def _adam(entries: Sequence[tuple[Tensor, ...]], lr: float, betas: Any, decay: float) -> None:
    """AdamW's step of (weight, gradient, first moment, second moment, steps) in one pass over memory."""
    weights, grads, firsts, seconds, counts = map(list, zip(*entries, strict=True))
    torch._fused_adamw_(
        weights,
        grads,
        firsts,
        seconds,
        [],
        counts,
        amsgrad=False,
        lr=lr,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=decay,
        eps=ADAM_EPS,
        maximize=False,
    )


def create_optimizer(model: Model, config: TrainConfig) -> MuonAdamW:
    """Muon for the hidden matrices and AdamW for the rest, or AdamW for all."""
    return MuonAdamW(
        *split_model(model, model.network, config.optimizer),
        lr=config.lr,
        adamw_lr=config.adamw_lr,
        momentum=config.momentum,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
    )
