"""Inputs on their way to the model, from a real storage."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from shared import keys
from shared.errors import BadInput
from shared.settings import Settings
from shared.store import Store
from workers.inputs import Inputs


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def store(settings: Settings) -> Store:
    store = Store(settings)
    store.ensure_bucket()
    return store


def test_an_input_whose_content_is_not_what_its_name_says_fails_its_row(store: Store, settings: Settings) -> None:
    name = keys.local_input(hashlib.sha256(png(1)).hexdigest(), ".png")
    store.replace(name, png(2), "image/png")
    inputs = Inputs(store, settings)
    with pytest.raises(BadInput, match="another hash"):
        inputs.picture(name)
    store.replace(name, png(1), "image/png")
    assert inputs.picture(name).pixels[0, 0].tolist() == [1, 0, 0]


def test_an_object_that_was_overwritten_is_not_used(store: Store, settings: Settings) -> None:
    store.replace("mine/photo.png", png(1), "image/png")
    version = store.stat("mine/photo.png")
    assert version is not None
    name = keys.s3_input(store.bucket, "mine/photo.png", version.etag)
    assert Inputs(store, settings).picture(name).pixels[0, 0].tolist() == [1, 0, 0]
    store.replace("mine/photo.png", png(2), "image/png")
    with pytest.raises(BadInput, match="was changed"):
        Inputs(store, settings).picture(name)


def test_a_picture_is_fetched_once_however_many_rows_ask_for_it(store: Store, settings: Settings) -> None:
    name = keys.local_input(hashlib.sha256(png(3)).hexdigest(), ".png")
    store.replace(name, png(3), "image/png")
    inputs = Inputs(store, settings)
    first = inputs.picture(name)
    store.delete(name)
    assert np.shares_memory(first.pixels, inputs.picture(name).pixels)
