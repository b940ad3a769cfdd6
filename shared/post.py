"""Post-processing steps that a row may ask for. Their names and amounts; `workers.post` does them."""

# name -> least and greatest amount, or None where there is none
STEPS: dict[str, tuple[float, float] | None] = {
    "autocontrast": None,
    "brightness": (0.0, 4.0),
    "contrast": (0.0, 4.0),
    "saturation": (0.0, 4.0),
    "sharpen": (0.0, 4.0),
    "denoise": (1.0, 3.0),
    "upscale": (2.0, 4.0),
}
WHOLE = ("denoise", "upscale")  # their amounts are whole numbers
MOST_STEPS = 8


def split(step: str) -> tuple[str, float]:
    """`brightness:1.1` -> its name and amount."""
    name, _, amount = step.partition(":")
    return name, float(amount or 0)
