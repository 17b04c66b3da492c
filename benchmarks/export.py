"""How fast a checkpoint is written, against a plain write of as many bytes, both until they are on disk.

    python benchmarks/export.py --params 500e6 --folder /data/tmp

Prints one JSON object last: {export_gb_s, write_gb_s, ratio_to_write}.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from evomerge.engine.export import Contents, save_contents
from evomerge.engine.writer import TensorSpec, split


def plain_write(path: Path, data: memoryview) -> float:
    """Seconds to write bytes to a file, in pieces, and to wait for the disk."""
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for begin in range(0, len(data), 2**26):
            file.write(data[begin : begin + 2**26])
        os.fsync(file.fileno())
    taken = time.perf_counter() - start
    path.unlink()
    return taken


def export(folder: Path, tensors: dict[str, torch.Tensor]) -> float:
    """Seconds to export tensors, digest included."""
    from transformers import LlamaConfig

    specs = tuple(TensorSpec(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items())
    contents = Contents(LlamaConfig(), None, None, specs, lambda name: split(tensors[name]))
    start = time.perf_counter()
    save_contents(contents, folder / "exported")
    taken = time.perf_counter() - start
    shutil.rmtree(folder / "exported")
    return taken


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=float, default=500e6)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    shape = (1024, 1024)
    count = max(int(arguments.params) // (shape[0] * shape[1]), 1)
    tensors = {f"layers.{i}.weight": torch.randn(shape).bfloat16() for i in range(count)}
    size = sum(tensor.numel() * 2 for tensor in tensors.values())
    whole = torch.cat([tensor.view(-1) for tensor in tensors.values()]).view(torch.uint8).numpy().data
    exports, writes = [], []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        for _ in range(arguments.repeats):
            writes.append(plain_write(Path(name) / "plain", whole))
            exports.append(export(Path(name), tensors))
    write, exported = size / statistics.median(writes) / 1e9, size / statistics.median(exports) / 1e9
    told = {"export_gb_s": exported, "write_gb_s": write, "ratio_to_write": exported / write}
    print(json.dumps({name: round(value, 3) for name, value in told.items()}))


if __name__ == "__main__":
    main()
