"""The image encoder of Segment Anything: the package's own results, in other arithmetic and in batches."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from shared import catalog
from shared.errors import BadInput
from shared.jobs import Row, Segment
from workers import attention, device, masks, sam
from workers.batches import Item
from workers.demo import evaluate_masks
from workers.demo.evaluate_edits import Scenes
from workers.demo.evaluate_masks import Case
from workers.models import Models
from workers.originals import Original
from workers.prepare import Preparation
from workers.sam import Prompt, Segmenter

MODELS = catalog.load()
DEMO = MODELS.models["demo-sam"]
CPU = torch.device("cpu")
CASES = evaluate_masks.cases(8)
MORE = evaluate_masks.cases(11)[8:]
SIDE = 128  # of the small models' pictures


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randomly(net: nn.Module) -> nn.Module:
    """With weights that matter everywhere; the package begins with positions and offsets of zero."""
    generator = torch.Generator().manual_seed(3)
    for weights in net.parameters():
        weights.data.normal_(0, 0.2, generator=generator)
    return net.eval()


def encoder(**sizes: object) -> ImageEncoderViT:
    """Of 8 x 8 tokens; windows of 5 do not divide them."""
    norm = partial(nn.LayerNorm, eps=1e-6)
    fixed = {"img_size": SIDE, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 3, "out_chans": 32}
    return ImageEncoderViT(norm_layer=norm, **fixed | sizes)


def random_sam() -> Sam:
    """As ViT-B, L and H are built: windows, one block that sees everything, relative positions."""
    eyes = encoder(use_rel_pos=True, window_size=5, global_attn_indexes=(1,))
    hands = MaskDecoder(transformer_dim=32, transformer=TwoWayTransformer(2, 32, 2, 64), iou_head_hidden_dim=32)
    return randomly(Sam(eyes, PromptEncoder(32, (8, 8), (SIDE, SIDE), mask_in_chans=16), hands))


@pytest.fixture
def random_entry(tmp_path, monkeypatch: pytest.MonkeyPatch) -> catalog.Model:
    monkeypatch.setitem(sam.WIDTHS, 48, "random")
    monkeypatch.setitem(sam.sam_model_registry, "random", random_sam)
    torch.save(random_sam().state_dict(), tmp_path / "sam.pth")
    return DEMO.model_copy(update={"path": tmp_path})


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    """The demo's model, which encodes eight pictures at once as on a CUDA device."""
    monkeypatch.setitem(sam.PICTURES_TOGETHER, "cpu", 8)
    return sam.load(DEMO, CPU)


def runs_of(segmenter: Segmenter) -> list[int]:
    """How many pictures each run of the image encoder had, from now on."""
    runs: list[int] = []
    segmenter.sam.image_encoder.register_forward_pre_hook(lambda _, given: runs.append(len(given[0])))
    return runs


def prepare(segmenter: Segmenter, cases: list[Case], times: int = 1, scenes: Scenes | None = None):
    """`times` rows on each picture: row 10 is the second one on the picture of row 0."""
    models = Models(MODELS, CPU, 1 << 40)
    models._loaded[segmenter.name] = segmenter
    items = [point(case, 10 * again + i) for again in range(times) for i, case in enumerate(cases)]
    return Preparation(scenes or Scenes(cases), models).prepare(items)


def point(case: Case, row: int) -> Item:
    ys, xs = np.nonzero(case.wanted)
    height, width = case.wanted.shape
    middle = (float(xs.mean()), float(ys.mean()))
    job = Segment(
        image=case.name, width=width, height=height, mask_model=DEMO.name, points=(middle,), point_labels=(1,)
    )
    return Item(Row(row=row, line=row, cells={}, job=job, job_id="0" * 64), 0)


def overlaps(some: list[Item], others: list[Item]) -> list[float]:
    pairs = zip(some, others, strict=True)
    return [masks.overlap(one.ready.found[0].mask, other.ready.found[0].mask) for one, other in pairs]


@pytest.mark.parametrize("positions", [True, False], ids=["with positions", "without"])
@pytest.mark.parametrize("window", [0, 4, 5], ids=["global", "windows", "padded windows"])
def test_the_fused_attention_computes_what_the_packages_own_does(window: int, positions: bool) -> None:
    mine, own = (randomly(encoder(use_rel_pos=positions, window_size=window)) for _ in range(2))
    attention.fuse(mine)
    pictures = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        found, expected = mine(pictures), own(pictures)
    assert not torch.equal(found, expected), "the attention was not replaced"
    assert (found - expected).abs().max() < 2e-6 * expected.abs().max()
    assert mine.state_dict().keys() == own.state_dict().keys()


@pytest.mark.parametrize("shape", [(128, 128), (90, 131), (300, 47)])
def test_embeddings_and_masks_are_those_of_the_packages_predictor(random_entry: catalog.Model, shape) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    own = random_sam()
    own.load_state_dict(torch.load(random_entry.path / "sam.pth"))
    predictor = SamPredictor(own)
    predictor.set_image(picture)
    place = np.array([[shape[1] / 2, shape[0] / 3]], np.float32)
    logits, scores, _ = predictor.predict(place, np.array([1]), return_logits=True)
    segmenter = sam.load(random_entry, CPU)
    segmenter.look("a", picture)
    (answer,) = segmenter.ask([Prompt(place, np.array([1], np.int32), None)])
    embedding = predictor.features
    assert (segmenter._seen["a"].features - embedding).abs().max() < 1e-5 * embedding.abs().max()
    sure = abs(logits) > 1e-4 * abs(logits).max()
    assert answer.masks.any() and not answer.masks.all()
    assert np.array_equal(answer.masks[sure], (logits > 0)[sure])
    assert np.allclose(answer.scores, scores.clip(0, 1), atol=1e-5)


def test_an_encoder_in_half_precision_finds_nearly_the_same_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CUDA device: the encoder's weights are bfloat16, everything else is float32."""
    exact = sam.load(DEMO, CPU)
    expected, _ = prepare(exact, CASES)
    monkeypatch.setattr(device, "dtype", lambda _: torch.bfloat16)
    half = sam.load(DEMO, CPU)
    assert {weights.dtype for weights in half.sam.image_encoder.parameters()} == {torch.bfloat16}
    assert {weights.dtype for weights in half.sam.mask_decoder.parameters()} == {torch.float32}
    assert half.size_bytes < 0.75 * exact.size_bytes
    rounded, _ = prepare(half, CASES)
    assert {seen.features.dtype for seen in half._seen.values()} == {torch.float32}
    assert min(overlaps(rounded, expected)) > 0.97


def test_pictures_of_a_batch_of_rows_go_through_the_encoder_in_one_run(together: Segmenter) -> None:
    """Two rows on each of eight pictures, one of them known: masks are those that each row would have alone."""
    together.look(CASES[0].name, CASES[0].crowd.image)
    runs = runs_of(together)
    made, refused = prepare(together, CASES, times=2)
    assert not refused
    assert runs == [7]
    assert together.encoded == 8
    alone = sam.load(DEMO, CPU)
    one_by_one, _ = prepare(alone, CASES, times=2)
    assert alone.encoded == 8
    assert min(overlaps(made, one_by_one)) > 0.99
    for name, seen in together._seen.items():
        assert torch.allclose(seen.features, alone._seen[name].features, atol=1e-4)


def test_the_seconds_of_a_run_are_shared_by_the_first_rows_of_its_new_pictures(
    together: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of the encoder takes six seconds by this clock; three of four pictures are new to it."""
    together.look(CASES[0].name, CASES[0].crowd.image)
    runs = runs_of(together)
    monkeypatch.setattr(sam, "time", SimpleNamespace(perf_counter=lambda: 6.0 * len(runs)))
    made, _ = prepare(together, CASES[:4], times=2)
    seconds = {item.row.row: item.ready.seconds for item in made}
    assert [seconds[row] for row in (1, 2, 3)] == [{"embed": 2.0}] * 3
    assert [seconds[row] for row in (0, 10, 11, 12, 13)] == [{}] * 5


def test_pictures_that_do_not_fit_into_memory_together_go_in_halves_and_that_is_remembered(together: Segmenter) -> None:
    runs, own = runs_of(together), together.sam.image_encoder.forward

    def forward(pictures: torch.Tensor) -> torch.Tensor:
        if len(pictures) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(pictures)

    together.sam.image_encoder.forward = forward
    made, refused = prepare(together, CASES)
    assert len(made) == 8 and not refused
    assert runs == [8, 4, 2, 2, 2, 2]
    assert together.encoded == 8
    prepare(together, MORE)
    assert runs[6:] == [2, 1]


def test_a_picture_that_does_not_fit_alone_is_an_error_and_those_before_it_are_kept(together: Segmenter) -> None:
    own = together.sam.image_encoder.forward

    def forward(pictures: torch.Tensor) -> torch.Tensor:
        if len(pictures) > 1 or together.encoded == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(pictures)

    together.sam.image_encoder.forward = forward
    with pytest.raises(torch.OutOfMemoryError):
        prepare(together, CASES)
    together.sam.image_encoder.forward = own
    prepare(together, CASES)
    assert together.encoded == 8


class Damaged(Scenes):
    """The third picture is damaged, the sixth one is a line."""

    def picture(self, name: str, /) -> Original:
        if name == CASES[2].name:
            raise BadInput("the picture is damaged")
        original = super().picture(name)
        line = np.zeros((1, SIDE + 1, 3), np.uint8)
        return replace(original, pixels=line) if name == CASES[5].name else original


def test_a_picture_that_is_damaged_or_too_narrow_is_its_rows_error_alone(together: Segmenter) -> None:
    runs = runs_of(together)
    made, refused = prepare(together, CASES, scenes=Damaged(CASES))
    assert [item.row.row for item in made] == [0, 1, 3, 4, 6, 7]
    assert str(refused[2, 0]) == "the picture is damaged"
    assert str(refused[5, 0]) == "found 129 x 1 pixels; too narrow for Segment Anything"
    assert runs == [6]


def test_pictures_of_one_run_do_not_push_each_other_out_before_they_are_asked_about(
    together: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for two embeddings: those of a run stay until the next one, others go; a known one stays for its rows."""
    together.look(CASES[0].name, CASES[0].crowd.image)
    together.look("other", CASES[1].crowd.image)
    one = together._seen["other"].features.nbytes
    monkeypatch.setattr(sam, "KEPT_BYTES", 2 * one)
    made, _ = prepare(together, CASES[:5])
    assert len(made) == 5
    assert together.encoded == 2 + 4
    assert [*together._seen] == [case.name for case in CASES[:5]]
    assert together.look(CASES[6].name, CASES[6].crowd.image)
    assert len(together._seen) == 2


def test_an_embedding_that_is_kept_holds_no_memory_of_its_neighbours(together: Segmenter) -> None:
    together.study({case.name: case.crowd.image for case in CASES})
    for seen in together._seen.values():
        assert seen.features.untyped_storage().nbytes() == seen.features.nbytes


def test_a_cuda_device_encodes_eight_pictures_at_once_and_a_cpu_one() -> None:
    small = sam.load(DEMO, CPU)
    on_cuda = Segmenter("s", "0" * 64, torch.device("cuda"), small.sam, 0)
    assert (on_cuda.together, small.together) == (8, 1)
