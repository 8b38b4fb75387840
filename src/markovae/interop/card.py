"""The model card of an exported run: README.md with the front matter that the Hub reads."""

from __future__ import annotations

from pathlib import Path

from markovae import __version__
from markovae.checkpoint import Checkpoint
from markovae.jsonlines import read_rows

_FRONT = """\
---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags:
- diffusers
- ddpm
- unconditional-image-generation
- markovae
---
"""


def model_card(checkpoint: Checkpoint, levels: int, run: Path, name: str) -> str:
    """What the model is, how to use it under this name, and what its held-out images cost, as far as the run says."""
    channels, height, width = checkpoint.shape
    config, classes = checkpoint.config, len(checkpoint.class_names)
    rows = [
        ("images", f"{width}x{height} pixels, {channels} channel{'s' if channels > 1 else ''}"),
        ("training steps", f"{checkpoint.step:,}"),
        ("schedule", config.schedule.kind),
        ("the network predicts", config.target.name),
        ("variance of a step", config.target.reverse),
    ]
    if classes:
        rows.append(("classes", f"{classes}: give the unet `class_labels`, which the pipeline itself does not"))
    rows += _held_out(run)
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        f"{_FRONT}\n# A diffusion model trained with markovae {__version__}\n\n"
        f"```python\n{usage(name, levels, bool(classes))}\n```\n\n| | |\n|---|---|\n{table}\n\n"
        "The same folder as a run, to be sampled with other samplers, measured in bits/dim, or trained on:\n\n"
        "```bash\nmarkovae import DIR --out runs/imported\nmarkovae measure runs/imported IMAGES\n```\n"
    )


def usage(name: str, levels: int, conditional: bool) -> str:
    """The lines that load it; a pipeline asks for 1,000 steps, or 50, whatever the grid has."""
    if conditional:
        return f'from diffusers import UNet2DModel\n\nunet = UNet2DModel.from_pretrained("{name}", subfolder="unet")'
    return (
        f'from diffusers import DiffusionPipeline\n\npipeline = DiffusionPipeline.from_pretrained("{name}")\n'
        f"images = pipeline(num_inference_steps={levels}).images"
    )


def _held_out(run: Path) -> list[tuple[str, str]]:
    """The last held-out bound of the run, where it took one."""
    rows = [row for row in read_rows(run / "metrics.jsonl").rows if row.get("kind") == "heldout"]
    if not rows or rows[-1]["bits_per_dim"]["mean"] is None:
        return []
    mean, error = (rows[-1]["bits_per_dim"][name] for name in ("mean", "stderr"))
    spread = "" if error is None else f" ± {error:.3f}"
    return [("held-out bound", f"{mean:.3f}{spread} bits/dim, after step {rows[-1]['step']}")]
