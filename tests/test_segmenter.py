"""The image encoder of Segment Anything: the package's own results, in other arithmetic and in batches."""

from functools import partial

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from shared import catalog
from workers import attention, sam
from workers.sam import Prompt

MODELS = catalog.load()
DEMO = MODELS.models["demo-sam"]
CPU = torch.device("cpu")
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
