"""From a row's selector to masks: points, a box or a phrase, through Segment Anything."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared.errors import BadInput, EmptySelection
from shared.jobs import Segment, Selection
from workers import masks
from workers.clipseg import Finder
from workers.originals import Original
from workers.ready import Found
from workers.sam import Answer, Prompt, Segmenter

LEAST_REGION = 0.001  # of the picture: smaller places that a phrase seems to name are noise
MOST_REGIONS = 64
NO_POINTS = np.zeros((0, 2), np.float32), np.zeros(0, np.int32)


def select(
    jobs: Sequence[Selection], name: str, original: Original, segmenter: Segmenter, finder: Callable[[str], Finder]
) -> list[list[Found] | BadInput]:
    """What each job selects in one picture, whose content `name` stands for; prompts of one shape decode together."""
    answers: dict[int, list[Answer]] = defaultdict(list)
    outcome: dict[int, list[Found] | BadInput] = {}
    groups: dict[tuple[int, bool], list[tuple[int, Prompt]]] = defaultdict(list)
    for index, job in enumerate(jobs):
        try:
            for prompt in prompts(job, name, original, finder):
                groups[len(prompt.points), prompt.box is None].append((index, prompt))
        except BadInput as error:
            outcome[index] = error
        if isinstance(job, Segment) and job.auto:
            answers[index].append(_everything(job, original, segmenter))
    for group in groups.values():
        for (index, _), answer in zip(group, segmenter.ask([prompt for _, prompt in group]), strict=True):
            answers[index].append(answer)
    return [outcome.get(index) or _choice(job, answers[index]) for index, job in enumerate(jobs)]


def _everything(job: Segment, original: Original, segmenter: Segmenter) -> Answer:
    return segmenter.everything(original.pixels, job.points_per_side, job.pred_iou_thresh, job.stability_score_thresh)


def _choice(job: Selection, answers: Sequence[Answer]) -> list[Found] | BadInput:
    try:
        return _choose(job, answers)
    except BadInput as error:
        return error


def prompts(job: Selection, name: str, original: Original, finder: Callable[[str], Finder]) -> list[Prompt]:
    if job.mask_text:
        sure = finder(job.mask_text_model).find(name, original.pixels, job.mask_text)
        return [Prompt(*NO_POINTS, box) for box in regions(sure, job)]
    if not job.points and job.box is None:
        return []
    points = np.array(job.points, np.float32).reshape(-1, 2)
    box = None if job.box is None else np.array(job.box, np.float32)
    return [Prompt(points, np.array(job.point_labels, np.int32), box)]


def regions(sure: NDArray[np.float32], job: Selection) -> list[NDArray[np.float32]]:
    """Boxes around the places where a phrase is, the surest first; all of them, or the best. Raises BadInput."""
    labels, count = ndimage.label(sure >= job.text_threshold)
    sums = ndimage.sum_labels(sure, labels, range(1, count + 1))
    sizes = ndimage.sum_labels(labels > 0, labels, range(1, count + 1))
    order = [i for i in np.argsort(-np.asarray(sums)) if sizes[i] >= LEAST_REGION * sure.size]
    if not order:
        raise EmptySelection(
            f"the phrase {job.mask_text!r} was not found (surest pixel {sure.max():.2f}, text_threshold "
            f"{job.text_threshold:g}); name it in other words, lower text_threshold, or give points or a box"
        )
    slices = ndimage.find_objects(labels)
    boxes = [_box(*slices[i]) for i in order]
    return boxes[:1] if job.mask_regions == "best" else boxes[:MOST_REGIONS]


def _box(rows: slice, columns: slice) -> NDArray[np.float32]:
    return np.array([columns.start, rows.start, columns.stop, rows.stop], np.float32)


def _choose(job: Selection, answers: Sequence[Answer]) -> list[Found]:
    """The masks that a job keeps: of each prompt's candidates as `multimask` says; a phrase's places make one mask."""
    if isinstance(job, Segment) and job.auto:
        found = [_found(answer, i, job) for answer in answers for i in range(len(answer.masks))]
        return _some([one for one in found if one.mask.any()], "nothing was found in the picture")
    if job.multimask == "all":
        found = [_found(answer, i, job) for answer in answers for i in np.argsort(-answer.scores)]
    else:
        found = [_found(answer, _pick(answer, job.multimask), job) for answer in answers]
    if len(found) > 1 and job.mask_text and job.multimask != "all":
        found = [_union(found)]
    return _some([one for one in found if one.mask.any()], "the selection is empty: no pixel belongs to it")


def _some(found: list[Found], otherwise: str) -> list[Found]:
    if not found:
        raise EmptySelection(f"{otherwise}; try other points, a box around the object, or lower thresholds")
    return found


def _pick(answer: Answer, multimask: str) -> int:
    if multimask == "largest":
        return int(answer.masks.sum((1, 2)).argmax())
    return int(answer.scores.argmax())


def _found(answer: Answer, index: int, job: Selection) -> Found:
    mask = masks.tidy(answer.masks[index], job.min_mask_region_area)
    return Found(mask, float(answer.scores[index]), float(answer.stability[index]))


def _union(found: Sequence[Found]) -> Found:
    mask = np.logical_or.reduce([one.mask for one in found])
    return Found(mask, min(one.score for one in found), min(one.stability for one in found))
