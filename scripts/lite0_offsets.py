"""Write where each tensor lies in the weights' file of EfficientNet-Lite0, so that the library need not unpickle it.

    python scripts/lite0_offsets.py FILE.pth [--to src/markovae/quality/weights/lite0.json]

Run once by a maintainer. Each tensor's bytes are looked for in the file, and must lie there exactly once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the offsets of the tensors in a weights' file.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--to", type=Path, default=ROOT / "src/markovae/quality/weights/lite0.json")
    options = parser.parse_args(arguments)
    content = options.file.read_bytes()
    tensors = {}
    for name, value in torch.load(options.file, map_location="cpu", weights_only=True).items():
        if value.dtype == torch.float32 and not name.startswith("_fc"):
            assert value.numel() * 4 == value.untyped_storage().nbytes(), f"{name} shares its storage"
            wanted = bytes(value.untyped_storage())
            start = content.find(wanted)
            assert start >= 0, f"{name} is not in the file"
            assert content.find(wanted, start + 1) < 0, f"{name} is in the file twice"
            tensors[name] = [start, list(value.shape), list(value.stride())]
    table = {"file": options.file.name, "sha256": hashlib.sha256(content).hexdigest(), "tensors": tensors}
    options.to.write_text(json.dumps(table, separators=(",", ":")) + "\n", encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
