"""What kind of work a row asks for follows from the columns that it fills, and never from a guess."""

import hypothesis
import pytest
from hypothesis import strategies as st

from producer import columns, fills, kinds
from producer.faults import BadCell
from shared import jobs

EXAMPLES = hypothesis.settings(max_examples=500)
COLUMNS = st.sets(st.sampled_from([column for column in columns.ALIASES if column != "kind"]))


@pytest.mark.parametrize(
    ("filled", "kind"),
    [
        ("prompt", "txt2img"),
        ("", "txt2img"),
        ("prompt width height", "txt2img"),
        ("prompt mask_image points action expand_left", "txt2img"),  # without an image: each of these is then a fault
        ("image prompt", "img2img"),
        ("image prompt strength mask_blur", "img2img"),
        ("image prompt width height", "img2img"),
        ("image prompt anchor", "img2img"),  # an anchor without a target says nothing
        ("image mask_image prompt", "inpaint"),
        ("image mask_image", "inpaint"),
        ("image expand_left", "outpaint"),
        ("image prompt expand_top expand_bottom width", "outpaint"),
        ("image anchor width", "outpaint"),
        ("image prompt anchor height", "outpaint"),
        ("image points", "segment"),
        ("image points point_labels box", "segment"),
        ("image mask_text", "segment"),
        ("image auto", "segment"),
        ("image action points", "mask_edit"),
        ("image action mask_text prompt", "mask_edit"),
        ("image action", "mask_edit"),  # its selector is missing, and that is said
    ],
)
def test_the_filled_columns_decide_the_kind(filled, kind):
    assert kinds.decide(set(filled.split())) == kind


@pytest.mark.parametrize(
    ("filled", "found", "hint"),
    [
        ("image", "image alone", "fill prompt (img2img), mask_image (inpaint), expand_* (outpaint), or points"),
        ("image points prompt", "points and prompt without action", "fill action for mask_edit, or empty prompt"),
        ("image mask_image points", "mask_image and points", "for inpaint empty points, for segment empty mask_image"),
        (
            "image mask_image action",
            "mask_image and action",
            "for inpaint empty action, for mask_edit empty mask_image",
        ),
        ("image expand_left mask_image", "mask_image and expand_left", "for outpaint empty mask_image"),
        ("image anchor width points", "anchor and points", "for outpaint empty points, for segment empty anchor"),
        ("image expand_left action auto", "expand_left and action", "for mask_edit empty expand_left"),
    ],
)
def test_a_row_that_fits_two_kinds_or_none_is_told_what_to_fill_or_empty(filled, found, hint):
    with pytest.raises(BadCell) as bad:
        kinds.decide(set(filled.split()))
    assert bad.value.found == found
    assert hint in bad.value.hint


@pytest.mark.parametrize(
    ("own", "filled", "kind"),
    [
        ("image", "prompt", "img2img"),
        ("image prompt", "action mask_text", "mask_edit"),
        ("image mask_image", "mask_text action", "inpaint"),  # with --set it would fit two: the row decides
        ("image points", "prompt", "segment"),
        ("prompt", "mask_text action", "txt2img"),
        ("prompt", "image", "img2img"),
        ("image prompt width", "anchor", "outpaint"),
    ],
)
def test_set_counts_as_a_cell_of_the_row_unless_the_row_would_fit_two_kinds_with_it(own, filled, kind):
    assert kinds.decide(set(own.split()), set(filled.split())) == kind


@EXAMPLES
@hypothesis.given(COLUMNS)
def test_a_kind_that_was_decided_has_a_use_for_every_column_that_decides(given):
    try:
        kind = kinds.decide(given)
    except BadCell as error:
        bad = error
    else:
        bad = None
    if bad is not None:
        assert "image" in given
        assert bad.found and bad.expected and bad.hint
        return
    telling = {"image", "mask_image", "action", "auto", *kinds.SELECTORS, *kinds.EXPANDS}
    assert given & telling <= kinds.USES[kind] or kind in ("txt2img", "mask_edit")
    assert kind != "txt2img" or "image" not in given
    assert kind != "mask_edit" or given & telling <= kinds.USES[kind] | {"auto"}  # that is then a fault of its own


@EXAMPLES
@hypothesis.given(COLUMNS, COLUMNS)
def test_columns_that_decide_nothing_do_not_change_the_kind(given, more):
    quiet = more - {"prompt", "image", "mask_image", "action", "auto", "anchor", "width", "height"}
    quiet -= {*kinds.SELECTORS, *kinds.EXPANDS}
    assert _outcome(given) == _outcome(given | quiet)


def _outcome(given):
    try:
        return kinds.decide(given)
    except BadCell as bad:
        return bad.found


def test_every_column_is_of_use_to_a_kind_and_every_field_of_a_job_has_its_column():
    assert set().union(*kinds.USES.values()) == {*columns.ALIASES, *columns.IN_TEXTS}
    assert set(jobs.KINDS) == set(kinds.USES)


@EXAMPLES
@hypothesis.given(COLUMNS, st.dictionaries(st.sampled_from(list(columns.ALIASES)), st.just("x")))
def test_what_set_adds_to_a_row_never_clashes_with_the_row_s_own_selection_or_margins(own, given):
    own -= {"auto"} if own & set(kinds.SELECTORS) else set()
    for kind in jobs.KINDS:
        used = fills.useful(given, kind, own)
        assert used.keys() <= kinds.USES[kind]
        if not kinds.clash(own):
            assert not kinds.clash(own & kinds.USES[kind] | (used.keys() - given.keys()))
