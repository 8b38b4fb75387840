"""The samplers and the spacings by name: the help, the documentation and the messages are made from these two tables.

Nothing here loads torch, so that the command line can print its help at once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampler:
    """A sampler's entry.

    Args:
        stepper: its class in sampling/samplers.py.
        source: the paper.
        order: of its error in the step size.
        nfe: network evaluations per step, those of its corrector among them.
        noise: whether it draws fresh noise.
        spacing: its default.
        solver_order: the stepper's argument, where it takes one.
        corrector: the class of its corrector.
        corrector_order: its argument, where it takes one.
    """

    stepper: str
    source: str
    order: str
    nfe: int = 1
    noise: bool = False
    spacing: str = "uniform"
    solver_order: int | None = None
    corrector: str | None = None
    corrector_order: int | None = None


SAMPLERS = {
    "sde-dpmpp2m": Sampler(
        "SDEDPMSolverPP2M", "Lu et al. 2022, SDE-DPM-Solver++(2M)", "2 in the drift", noise=True, spacing="karras"
    ),
    "ancestral": Sampler(
        "Ancestral", "Ho et al. 2020, with any reverse variance", "the prior itself", noise=True, spacing="levels"
    ),
    "ddim": Sampler("DDIM", "Song et al. 2021, η = 0", "1"),
    "euler": Sampler("Euler", "Karras et al. 2022", "1, the step of ddim", spacing="karras"),
    "heun": Sampler("Heun", "Karras et al. 2022", "2", nfe=2, spacing="karras"),
    "dpmpp2m": Sampler("DPMSolverPP2M", "Lu et al. 2022, multistep", "2"),
    "dpmpp3m": Sampler("DPMSolverPP3M", "Lu et al. 2022, multistep", "3"),
    "dpmpp2s": Sampler("DPMSolverPP2S", "Lu et al. 2022, singlestep", "2", nfe=2),
    "dpmpp3s": Sampler("DPMSolverPP3S", "Lu et al. 2022, singlestep", "3", nfe=3),
    "deis2": Sampler("AdamsBashforth", "exponential Adams–Bashforth, after Zhang & Chen 2023", "2", solver_order=2),
    "deis3": Sampler("AdamsBashforth", "exponential Adams–Bashforth, after Zhang & Chen 2023", "3", solver_order=3),
    "unipc2": Sampler("DPMSolverPP2M", "Zhao et al. 2023, ρ = ½", "3", corrector="UniC", corrector_order=2),
    "unipc3": Sampler(
        "AdamsBashforth", "Zhao et al. 2023", "3 to 4", solver_order=3, corrector="UniC", corrector_order=3
    ),
    "pc": Sampler(
        "DDIM", "Song et al. 2021 (score SDE), DDIM with a Langevin correction", "1", nfe=2, noise=True,
        corrector="Langevin",
    ),
}  # fmt: skip
DEFAULT_SAMPLER = "sde-dpmpp2m"
"""Its fresh noise lets a network mend what an earlier step got wrong, which keeps flat areas flat."""

SPACINGS = {
    "uniform": "even in log-SNR",
    "karras": "even in (s/a)^(1/7)",
    "levels": "even strides of the schedule's levels",
    "optimal": "the levels of the least bound, searched once",
    "tuned": "nearest to a fine trajectory of this model, searched once",
}
SEARCHED = ("optimal", "tuned")
"""The spacings that are searched for a model; what is found is kept in the cache folder."""

TUNED_FOR = 16
"""Samples that a grid is tuned for."""

THRESHOLDS = ("static", "dynamic")
DEGRADATIONS = ("sr2", "sr4", "sr8", "blur", "grey")
EDIT_METHODS = ("moments", "repaint")


def samplers_help() -> str:
    """The two tables as plain text, for --help."""
    width = max(map(len, (*SAMPLERS, *SPACINGS)))
    rows = ["samplers:"]
    for name, entry in SAMPLERS.items():
        noise = ", fresh noise" if entry.noise else ""
        default = " (the default)" if name == DEFAULT_SAMPLER else ""
        several = f", {entry.nfe} NFE per step" if entry.nfe > 1 else ""
        rows.append(f"  {name:<{width}}  {entry.source}{several}{noise}{default}")
    rows += ["", "spacings:"]
    for name, meaning in SPACINGS.items():
        of = ", ".join(sampler for sampler, entry in SAMPLERS.items() if entry.spacing == name and name != "uniform")
        default = "; the default" if name == "uniform" else f"; the default of {of}" if of else ""
        rows.append(f"  {name:<{width}}  {meaning}{default}")
    return "\n".join(rows) + "\n"


def samplers_markdown() -> str:
    """The samplers as the table of docs/sampling.md."""
    rows = [
        "| name | order | NFE per step | fresh noise | spacing | source |",
        "| --- | --- | ---: | --- | --- | --- |",
    ]
    for name, entry in SAMPLERS.items():
        default = " (default)" if name == DEFAULT_SAMPLER else ""
        cells = (entry.order, str(entry.nfe), "yes" if entry.noise else "no", f"`{entry.spacing}`", entry.source)
        rows.append(f"| `{name}`{default} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
