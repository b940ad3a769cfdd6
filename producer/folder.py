"""`--images DIR`: a CSV file with a row for every picture in a folder, as a user could have written it."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from shared.errors import UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
MASK_ENDING = "_mask"


def write_csv(place: Path, images: Path, masks: Path | None, said: Mapping[str, str]) -> Path:
    """The file, in the folder `place`. Its paths are absolute, so that failed.csv can be produced from anywhere. A
    picture without its mask names the file that is expected. `said`: further columns, equal in all rows. Raises
    UsageError."""
    pictures = _pictures(images)
    if masks is not None and masks.is_dir() and masks.samefile(images):
        pictures = _without_masks(pictures)
    if not pictures:
        raise UsageError(f"{images}: found no pictures; expected files that end with {', '.join(SUFFIXES)}")
    rows = [{"image": str(picture)} for picture in pictures]
    if masks is not None:
        for row, mask in zip(rows, _masks(pictures, masks), strict=True):
            row["mask_image"] = str(mask)
    rows = [{**row, **said} for row in rows]
    path = place / f"{images.resolve().name or 'images'}.csv"
    # Names that are no UTF-8 become bytes that are none, and the reader of the file says so in their row.
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def left_out(images: Path) -> list[str]:
    """Names of the folder's files that are taken for no pictures, by name; hidden ones do not count."""
    files = (path for path in images.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(path.name for path in files if path.suffix.lower() not in SUFFIXES)


def _pictures(folder: Path) -> list[Path]:
    """Absolute paths of the folder's picture files, by name."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        raise UsageError(f"{folder}: found {found}; expected a folder with pictures")
    return sorted(path for path in folder.resolve().iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def _without_masks(pictures: Iterable[Path]) -> list[Path]:
    """What is not the mask of another."""
    found = list(pictures)
    stems = {path.stem for path in found}
    return [path for path in found if not (path.stem.endswith(MASK_ENDING) and path.stem[: -len(MASK_ENDING)] in stems)]


def _masks(pictures: Iterable[Path], masks: Path) -> list[Path]:
    """For each picture its mask: the one of its stem, or of its stem and `_mask`; or one file for all."""
    if masks.is_file():
        return [masks.resolve() for _ in pictures]
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in _pictures(masks):
        by_stem[path.stem].append(path)
    return [_mask(picture, by_stem, masks.resolve()) for picture in pictures]


def _mask(picture: Path, by_stem: Mapping[str, list[Path]], folder: Path) -> Path:
    """In the pictures' own folder, a mask always has its ending; where there is none, the first name that would do."""
    stems = [picture.stem + MASK_ENDING]
    if picture.parent != folder:
        stems.insert(0, picture.stem)
    for stem in stems:
        found = by_stem.get(stem, [])
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise UsageError(f"{folder}: found {names} for {picture.name}; expected one mask: move the others away")
        if found:
            return found[0]
    return folder / f"{stems[0]}.png"
