"""What axes of rows and columns show of the frame, worked out by hand."""

import numpy as np
import pytest

from bc_jax.sparse import sides
from bc_jax.sparse.sides import ANY, UNKNOWN, Reads, after, at_own_places

# An axis of eight pixels; blocks of two.
SIZE, BLOCKS = 8, 4


def read(*places, width=1, side=None, size=SIZE):
    return after(side, Reads(np.array(places, float), width), size)


def test_all_pixels_in_their_order_are_at_their_own_places():
    assert read(*range(SIZE)) is None
    assert at_own_places(None, BLOCKS)


@pytest.mark.parametrize(
    ("places", "own"),
    [
        ([1, 0, 3, 2, 5, 4, 7, 6], True),  # within each block
        ([0, 2, 1, 3, 4, 5, 6, 7], False),  # across
        ([0, 0, 1, 2, 3, 4, 5, 6], False),  # all by a pixel, which is half a block
        ([2, 3, 4, 5], False),  # the middle
        ([0] * 2 + [4] * 2, False),  # the first pixel of each half, twice
        ([0, 2, 4, 6], True),  # every other
        ([7, 6, 5, 4, 3, 2, 1, 0], False),
        ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7], True),  # each twice
        ([-9] * 3 + [*range(8)] + [20] * 3, False),  # in padding
        ([np.nan] * 8, True),
    ],
)
def test_what_is_picked(places, own):
    assert at_own_places(read(*places), BLOCKS) == own


def test_what_was_moved_comes_back():
    away = read(4, 5, 6, 7, 0, 1, 2, 3)
    assert not at_own_places(away, BLOCKS)
    assert read(4, 5, 6, 7, 0, 1, 2, 3, side=away) is None
    halves = read(*range(4)), read(*range(4, 8))
    assert sides.joined(halves) is None


def test_a_coarse_pixel_shows_all_that_it_was_made_of():
    mean = after(None, sides.every(8, 3.5, 1), SIZE)
    assert mean is None  # one pixel, of all of it
    halves = after(None, sides.every(4, 1.5, 2), SIZE)
    assert halves is None
    repeated = read(*[0] * 4, *[1] * 4, size=2)
    np.testing.assert_allclose(repeated[:4], [[0, 0.5]] * 4)
    assert at_own_places(repeated, BLOCKS)


@pytest.mark.parametrize(
    ("kernel", "stride", "low", "made"),
    [(3, 1, 1, 8), (3, 2, 1, 4), (3, 2, 0, 4), (7, 2, 3, 4), (2, 2, 0, 4), (4, 4, 0, 2)],
)
def test_windows_as_usually_padded_leave_pixels_at_their_places(kernel, stride, low, made):
    assert after(None, sides.every(stride, (kernel - 1) / 2 - low, made), SIZE) is None


def test_a_window_without_padding_cuts_the_ends():
    cut = after(None, sides.every(1, 2, SIZE - 4), SIZE)
    np.testing.assert_allclose(cut.mean(axis=1) * SIZE - 0.5, range(2, 6))


def test_transposed_windows():
    assert after(None, sides.every(1 / 2, (1 / 2 - 0) / 2, 2 * SIZE), SIZE) is not None
    assert at_own_places(after(None, sides.every(1 / 2, 0.25, 2 * SIZE), SIZE), BLOCKS)


def test_a_matrix():
    bilinear = np.array([[1, 0, 0], [0.75, 0.25, 0], [0.25, 0.75, 0], [0, 0.75, 0.25]])
    np.testing.assert_allclose(sides.by_matrix(bilinear).places, [0, 0.25, 0.75, 1.25])
    assert np.isnan(sides.by_matrix(np.zeros((1, 3))).places).all()


def test_what_is_not_known_stays_so():
    unknown = after(None, ANY, SIZE)
    assert unknown is UNKNOWN
    assert not at_own_places(unknown, BLOCKS)
    assert after(unknown, Reads(np.arange(SIZE)), SIZE) is UNKNOWN
    assert sides.together([None, unknown], SIZE) is UNKNOWN
    partly = sides.joined([sides.resized(None, 4), sides.resized(unknown, 4)])
    assert not at_own_places(partly, BLOCKS)
    assert np.isinf(sides.resized(partly, 3)).all()


def test_of_several_the_furthest_tells():
    part, turned = read(2, 3, 4, 5), read(*range(8)[::-1])
    assert sides.together([None, None], SIZE) is None
    np.testing.assert_array_equal(sides.together([None, turned, None], SIZE), turned)
    assert sides.together([turned, UNKNOWN], SIZE) is UNKNOWN
    np.testing.assert_array_equal(sides.together([None, part], 4), part)
    early, late = read(0, 1, 2, 3), read(4, 5, 6, 7)
    np.testing.assert_array_equal(sides.together([early, late], 4), late)


def test_what_stands_between_shows_in_the_gaps():
    even = read(0, np.nan, 2, np.nan, 4, np.nan, 6, np.nan)
    odd = read(np.nan, 1, np.nan, 3, np.nan, 5, np.nan, 7)
    assert sides.together([even, odd], SIZE) is None
