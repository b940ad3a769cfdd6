"""A model of Stable Diffusion 1.5's size with random weights, as folder and as single file, through `produce`.

`make full-size`: about 6 GB of disk, 12 GB of memory, minutes on a CPU. The pictures are noise; what they cost is not.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ldm
import numpy as np
import tiny_models
import torch
from safetensors.torch import save_file

from shared import images

PRODUCE = Path(sys.executable).with_name("produce")
STEPS = 2
ROW = f"a lighthouse at dusk,7,{STEPS},512,512"


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="pixelmill-full-size-") as name:
        folder = Path(name)
        build(folder)
        environment = os.environ | {"PIXELMILL_MODELS": str(folder / "models.toml")}
        rows = []
        for model, path in {"folder": folder / "sd15", "single-file": folder / "words" / "sd15.safetensors"}.items():
            produce(folder, environment, "models", "add", str(path), "--name", model)
            rows.append(f"{ROW},{model}")
        (folder / "rows.csv").write_text("prompt,seed,steps,width,height,model\n" + "\n".join(rows) + "\n")
        try:
            begin = time.monotonic()
            produce(folder, environment, "--csv", "rows.csv", "--run", "full-size", "--download", "pictures")
            print(f"both rows, loading included: {time.monotonic() - begin:.0f} s")
        finally:
            produce(folder, environment, "down")
        return report(sorted((folder / "pictures" / "images").glob("*.png")))


def build(folder: Path) -> None:
    """The model in half precision, in both formats."""
    described = tiny_models.ARCHITECTURES / "sd15"
    pipeline = tiny_models.pipeline("sd15", described)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.half()
    count = sum(weights.numel() for weights in pipeline.unet.parameters())
    print(f"UNet: {count / 1e6:.0f} million parameters")
    tiny_models.write(pipeline, described, folder / "sd15")
    tiny_models.vocabulary(folder / "words")
    save_file(ldm.checkpoint(pipeline), folder / "words" / "sd15.safetensors")


def produce(folder: Path, environment: dict[str, str], *arguments: str) -> None:
    subprocess.run([PRODUCE, *arguments], cwd=folder, env=environment, check=True)


def report(pictures: list[Path]) -> int:
    """What the pictures say of themselves, and how far they are apart. The exit code."""
    pixels = []
    for path in pictures:
        data = path.read_bytes()
        texts = images.read_texts(data)
        model = json.loads(texts["pixelmill"])["model"]
        print(f"{path.name}: model {model['name']}, identity {model['identity']}")
        print("  " + texts["parameters"].splitlines()[-1])
        pixels.append(images.decode(data).astype(int))
    far = int(np.abs(pixels[0] - pixels[1]).max())
    print(f"folder and single file differ by at most {far}/255; standard deviation {pixels[0].std():.1f}")
    return 0 if len(pictures) == 2 and far <= 1 and pixels[0].std() > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
