"""Train a reference model by its committed configuration, and ship its averaged weights.

    python scripts/reference.py [--config configs/reference.toml] [--to tests/fixtures/reference]
    python scripts/reference.py --config configs/fashion.toml --keep        # trained, not shipped

The run lies in the user's cache folder under the hash of the configuration: an interrupted one goes on where it
stopped, a finished one is only exported again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from markovae.checkpoints.reading import load, open_checkpoint
from markovae.checkpoints.writing import export_weights
from markovae.config import Config
from markovae.data.cache import cache_folder
from markovae.errors import StoppedRun, UserError
from markovae.log import log
from markovae.run.start import resume_run, train_run

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 15_000_000  # bytes of the fixture


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train and ship the reference model.")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "reference.toml")
    parser.add_argument("--to", type=Path, default=ROOT / "tests" / "fixtures" / "reference")
    parser.add_argument("--keep", action="store_true", help="leave the run in the cache folder and ship nothing")
    options = parser.parse_args(arguments)
    try:
        run = trained(Config.from_toml(options.config))
        log(f"trained: {run}")
        if not options.keep:
            ship(run, options.to)
    except UserError as error:
        log(str(error))
        return 2
    except StoppedRun as error:
        log(str(error))
        return 3
    return 0


def trained(config: Config) -> Path:
    """The finished run of this configuration."""
    run = cache_folder() / f"reference-{config.hash()}"
    if (run / "checkpoints").is_dir():
        return resume_run(run)
    run.parent.mkdir(parents=True, exist_ok=True)
    return train_run(config, run)


def ship(run: Path, target: Path) -> None:
    """Export the run's averaged weights in half precision, and read them back."""
    checkpoint = open_checkpoint(run)
    fitted = checkpoint.tensors("fitted") if "fitted.safetensors" in checkpoint.contents else None
    state = {**checkpoint.state, "kind": "weights"}
    export_weights(target, checkpoint.tensors("ema"), state, checkpoint.config, fitted)
    load(target)
    size = sum(path.stat().st_size for path in target.iterdir())
    log(f"{target}: {size:,} bytes, step {checkpoint.step:,}")
    if size >= LIMIT:
        raise UserError(f"{target} has {size:,} bytes and must stay below {LIMIT:,}: make network.width smaller")


if __name__ == "__main__":
    sys.exit(main())
