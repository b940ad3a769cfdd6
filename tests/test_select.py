"""Selections with the demo models: points, boxes, phrases, everything; and what a checkpoint must be."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shared import catalog
from shared.errors import BadInput, ModelError
from shared.jobs import Segment
from workers import clipseg, masks, sam, select
from workers.demo import crowds, evaluate_edits, evaluate_masks
from workers.demo.evaluate_masks import Case
from workers.sam import Prompt, Segmenter

MODELS = catalog.load()
CPU = torch.device("cpu")
SIZES = json.loads((MODELS.models["demo-sam"].path / "config.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two that wait for each other are far slower on a busy machine
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return sam.load(MODELS.models["demo-sam"], CPU)


@pytest.fixture(scope="module")
def finder() -> clipseg.Finder:
    return clipseg.load(MODELS.models["demo-clipseg"], CPU)


@pytest.fixture(scope="module")
def case() -> Case:
    """Three objects, of which the first is wanted."""
    crowd = next(c for i in range(99) if len((c := crowds.draw(np.random.default_rng(i))).objects) == 3)
    return Case("three", crowd, crowd.labels == 1)


def ask(case: Case, segmenter: Segmenter, finder: clipseg.Finder, *jobs: Segment) -> list:
    segmenter.look(case.name, case.crowd.image)
    return select.select(jobs, case.name, case.original, segmenter, lambda _: finder)


def segment(case: Case, **fields: object) -> Segment:
    height, width = case.wanted.shape
    names = {"mask_model": "demo-sam", "mask_text_model": "demo-clipseg" if "mask_text" in fields else ""}
    return Segment(image=case.name, width=width, height=height, **names, **fields)


@pytest.mark.parametrize(("way", "floor"), [("point", 0.92), ("box", 0.95), ("phrase", 0.85)])
def test_the_demo_models_find_the_object_of_held_out_scenes(way: str, floor: float) -> None:
    """Twenty of the scenes that docs/demo-model.md has figures of; the floors are the goals."""
    found = evaluate_masks.overlaps(way, evaluate_masks.cases(20), MODELS)
    assert np.mean(found) >= floor


def test_everything_finds_the_objects_of_held_out_scenes() -> None:
    found = evaluate_masks.overlaps("auto", evaluate_masks.cases(6), MODELS)
    assert np.mean(np.array(found) >= evaluate_masks.FOUND_AT) >= 0.8


@pytest.mark.parametrize(("action", "most"), [("replace_background", 1), ("replace_object", 6), ("remove_object", 2)])
def test_edits_of_held_out_scenes_do_what_was_asked(action: str, most: int) -> None:
    """The first of the scenes that docs/demo-model.md has figures of; `most` are not as asked."""
    todo = [evaluate_edits.edit(case, action) for case in evaluate_masks.cases(24)]
    done = list(evaluate_edits.results(todo, MODELS))
    bad = [faults for wanted, result, why in done if (faults := evaluate_edits.faults(wanted, result, why))]
    assert len(bad) <= most, bad


def test_many_rows_on_one_picture_share_one_embedding(case: Case, finder: clipseg.Finder) -> None:
    fresh = sam.load(MODELS.models["demo-sam"], CPU)
    rng = np.random.default_rng(0)
    jobs = [segment(case, points=((float(x), float(y)),), point_labels=(1,)) for x, y in rng.integers(0, 128, (16, 2))]
    for i in range(0, 16, 4):
        ask(case, fresh, finder, *jobs[i : i + 4])
    assert fresh.encoded == 1
    assert fresh.look(case.name, case.crowd.image) is False
    assert fresh.look("another", case.crowd.image) is True


def test_a_row_gets_the_same_mask_alone_and_among_others(
    case: Case, segmenter: Segmenter, finder: clipseg.Finder
) -> None:
    rng = np.random.default_rng(1)
    jobs = [segment(case, points=((float(x), float(y)),), point_labels=(1,)) for x, y in rng.integers(0, 128, (8, 2))]
    jobs += [segment(case, box=(10, 10, 90, 90)), segment(case, points=((64, 64), (5, 5)), point_labels=(1, 0))]
    together = ask(case, segmenter, finder, *jobs)
    for job, among in zip(jobs, together, strict=True):
        (alone,) = ask(case, segmenter, finder, job)
        assert [masks.overlap(a.mask, b.mask) for a, b in zip(alone, among, strict=True)] == [1.0] * len(among)


def test_everything_and_a_point_can_be_asked_of_one_picture_together(
    case: Case, segmenter: Segmenter, finder: clipseg.Finder
) -> None:
    point = segment(case, points=((64, 64),), point_labels=(1,))
    everything, one = ask(case, segmenter, finder, segment(case, auto=True, points_per_side=4), point)
    assert isinstance(everything, list)
    assert isinstance(one, list)


def test_multimask_keeps_the_best_the_largest_or_all(case: Case, segmenter: Segmenter, finder: clipseg.Finder) -> None:
    ys, xs = np.nonzero(case.wanted)
    point = {"points": ((float(xs[0]), float(ys[0])),), "point_labels": (1,), "min_mask_region_area": 0}
    best, largest, every = ask(
        case, segmenter, finder, *(segment(case, **point, multimask=m) for m in ("best", "largest", "all"))
    )
    assert len(best) == len(largest) == 1
    assert len(every) == 3
    assert best[0].score == max(one.score for one in every)
    assert largest[0].mask.sum() == max(one.mask.sum() for one in every)


def test_a_phrase_that_nothing_answers_to_is_the_rows_own_error(
    case: Case, segmenter: Segmenter, finder: clipseg.Finder
) -> None:
    colors = {o.color for o in case.crowd.objects} | {case.crowd.objects[0].background, case.crowd.objects[0].accent}
    absent = next(color for color in ("red", "green", "blue", "white", "black", "yellow") if color not in colors)
    good, bad = ask(
        case,
        segmenter,
        finder,
        segment(case, box=masks.box_of(case.wanted)),
        segment(case, mask_text=f"the {absent} shape", text_threshold=0.9),
    )
    assert isinstance(bad, BadInput)
    assert "was not found" in str(bad)
    assert masks.overlap(good[0].mask, case.wanted) > 0.9


def test_regions_of_a_phrase_are_joined_or_the_best_is_taken() -> None:
    sure = np.zeros((60, 80), np.float32)
    sure[5:15, 5:25] = 0.9
    sure[40:50, 60:70] = 0.7
    sure[30, 30] = 1.0  # one pixel is noise
    job = Segment(image="i", width=80, height=60, mask_model="m", mask_text_model="t", mask_text="x")
    boxes = select.regions(sure, job)
    assert [box.tolist() for box in boxes] == [[5, 5, 25, 15], [60, 40, 70, 50]]
    assert len(select.regions(sure, job.model_copy(update={"mask_regions": "best"}))) == 1


def test_a_checkpoint_of_the_package_is_known_by_its_width(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = sam.load(MODELS.models["demo-sam"], CPU).sam
    monkeypatch.setitem(sam.WIDTHS, 128, "small")
    monkeypatch.setitem(sam.sam_model_registry, "small", lambda: sam.sized(SIZES))
    torch.save(small.state_dict(), tmp_path / "sam_small.pth")
    entry = MODELS.models["demo-sam"].model_copy(update={"path": tmp_path})
    loaded = sam.load(entry, CPU)
    assert loaded.size_bytes == sum(p.numel() * p.element_size() for p in small.parameters())


def test_a_pickle_of_anything_but_tensors_is_refused(tmp_path) -> None:
    torch.save({"model": print}, tmp_path / "sam.pth")
    entry = MODELS.models["demo-sam"].model_copy(update={"path": tmp_path})
    with pytest.raises(ModelError, match="does not load as Segment Anything"):
        sam.load(entry, CPU)


def test_a_checkpoint_of_another_architecture_and_an_empty_folder_are_refused(tmp_path) -> None:
    entry = MODELS.models["demo-sam"].model_copy(update={"path": tmp_path})
    with pytest.raises(ModelError, match="found 0 checkpoints"):
        sam.load(entry, CPU)
    save_file({"image_encoder.pos_embed": torch.zeros(1, 4, 4, 99)}, tmp_path / "sam.safetensors")
    with pytest.raises(ModelError, match="width 99"):
        sam.load(entry, CPU)
    with pytest.raises(ModelError, match="does not load as CLIPSeg"):
        clipseg.load(entry.model_copy(update={"family": "clipseg"}), CPU)


def test_points_outside_in_are_told_apart(case: Case, segmenter: Segmenter) -> None:
    """A point labelled 0 takes its object out of a box that holds two."""
    segmenter.look(case.name, case.crowd.image)
    everything = np.array([0, 0, 128, 128], np.float32)
    ys, xs = np.nonzero(case.wanted)
    inside = np.array([[xs.mean(), ys.mean()]], np.float32)
    (with_it,) = segmenter.ask([Prompt(inside, np.array([1], np.int32), everything)])
    (without,) = segmenter.ask([Prompt(inside, np.array([0], np.int32), everything)])
    best = [answer.masks[answer.scores.argmax()][case.wanted].mean() for answer in (with_it, without)]
    assert best[0] > best[1]
