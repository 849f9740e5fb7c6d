"""Information gains, costs and rewards against NumPy and by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bc_jax.policy import (
    block_max,
    block_mean,
    class_change_gain,
    cost_reward,
    information_gain_detection,
    information_gain_segmentation,
    running_fraction,
    total_variation_gain,
)


def _softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _logits(seed, shape=(2, 8, 12, 5)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 3


def test_segmentation_gain_is_the_divergence():
    prev, new = _logits(0), _logits(1)
    p, q = _softmax(prev.astype(np.float64)), _softmax(new.astype(np.float64))
    expected = (p * np.log(p / q)).mean(axis=-1)
    gain = information_gain_segmentation(prev, new)
    np.testing.assert_allclose(gain, expected, rtol=1e-4, atol=1e-6)
    quarter = information_gain_segmentation(prev, new, scale=1 / 4)
    np.testing.assert_allclose(quarter, expected[:, ::4, ::4], rtol=1e-4, atol=1e-6)
    # From the previous to the new: not symmetric.
    assert not np.allclose(gain, information_gain_segmentation(new, prev), rtol=0.01)


def test_gains_of_an_unchanged_output_are_zero():
    prev = _logits(0)
    for gain in (information_gain_segmentation, total_variation_gain, class_change_gain):
        np.testing.assert_allclose(gain(prev, prev), 0, atol=1e-7)


def test_total_variation_and_class_change():
    prev, new = _logits(2), _logits(3)
    p, q = _softmax(prev), _softmax(new)
    np.testing.assert_allclose(
        total_variation_gain(prev, new), np.abs(p - q).sum(axis=-1) / 2, rtol=1e-4, atol=1e-6
    )
    change = class_change_gain(prev, new, scale=0.5)
    expected = (prev.argmax(-1) != new.argmax(-1))[:, ::2, ::2]
    np.testing.assert_array_equal(change, expected)
    assert 0 < expected.mean() < 1


def test_class_change_does_not_hide_broken_outputs():
    prev, new = _logits(2), _logits(3)
    new[0, 1, 1, 2] = np.nan
    gain = class_change_gain(prev, new)
    assert np.isnan(gain[0, 1, 1])
    assert np.isnan(gain).sum() == 1


def test_gain_in_half_precision_is_computed_in_float32():
    prev, new = _logits(0), _logits(1)
    half = information_gain_segmentation(prev.astype(jnp.bfloat16), new.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, information_gain_segmentation(prev, new), atol=0.05)


def test_blocks_take_maximum_or_mean():
    gain = jnp.arange(24.0).reshape(1, 4, 6)
    # Blocks of 2x3: rows 0-1 and columns 0-2 hold 0, 1, 2, 6, 7, 8.
    np.testing.assert_allclose(block_max(gain, (2, 2)), [[[8, 11], [20, 23]]])
    np.testing.assert_allclose(block_mean(gain, (2, 2)), [[[4, 7], [16, 19]]])
    with pytest.raises(ValueError, match=r"4x6 .* 3x2"):
        block_max(gain, (3, 2))


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_bad_scale_and_shapes(scale):
    with pytest.raises(ValueError, match="scale"):
        information_gain_segmentation(_logits(0), _logits(1), scale=scale)
    with pytest.raises(ValueError, match="classes"):
        information_gain_segmentation(_logits(0), _logits(1)[:, :4])


def _detections(*rows, slots=3):
    """Rows (x1, y1, x2, y2, score), padded with boxes of score 0 that must not matter."""
    table = np.full((slots, 5), 7.0, np.float32)
    table[:, 4] = 0
    table[: len(rows)] = np.array(rows, np.float32).reshape(-1, 5)
    return jnp.array(table[None, :, :4]), jnp.array(table[None, :, 4])


detection_gain = functools.partial(
    jax.jit(information_gain_detection, static_argnames=("image_size", "grid_shape")),
    image_size=(40, 80),
    grid_shape=(2, 4),
)


def _detection_gain(prev, new):
    return np.asarray(detection_gain(prev, new)[0])


def test_detection_gain_without_jit_is_the_same():
    prev, new = _detections((0, 0, 20, 20, 0.8)), _detections((10, 0, 30, 20, 0.9))
    plain = information_gain_detection(prev, new, image_size=(40, 80), grid_shape=(2, 4))
    np.testing.assert_allclose(_detection_gain(prev, new), plain[0], rtol=1e-6)


def test_detection_gain_by_hand():
    # Blocks are 20x20 pixels. A box moves 10 pixels right, out of 20: intersection 10x20 = 200,
    # union 800 - 400... = 400 + 400 - 200 = 600, IoU 1/3. Gain (1 - 1/3) * 0.9 = 0.6 over its new
    # box, x 10-30 (blocks 0 and 1), and over its match, x 0-20 (block 0); both in the upper row.
    prev = _detections((0, 0, 20, 20, 0.8))
    new = _detections((10, 0, 30, 20, 0.9))
    np.testing.assert_allclose(
        _detection_gain(prev, new), [[0.6, 0.6, 0, 0], [0, 0, 0, 0]], rtol=1e-5
    )


def test_detection_that_appears_or_vanishes_paints_its_score():
    nothing = _detections()
    box = _detections((45, 5, 75, 35, 0.7))
    expected = [[0, 0, 0.7, 0.7], [0, 0, 0.7, 0.7]]
    np.testing.assert_allclose(_detection_gain(nothing, box), expected, rtol=1e-6)
    np.testing.assert_allclose(_detection_gain(box, nothing), expected, rtol=1e-6)
    np.testing.assert_allclose(_detection_gain(nothing, nothing), 0)
    np.testing.assert_allclose(_detection_gain(box, box), 0, atol=1e-6)


def test_detection_gain_takes_the_largest_of_several():
    # One stays, one vanishes with 0.5 and one appears with 0.9 over the same block.
    prev = _detections((0, 20, 20, 40, 1.0), (65, 5, 75, 15, 0.5))
    new = _detections((0, 20, 20, 40, 1.0), (62, 0, 64, 4, 0.9))
    np.testing.assert_allclose(
        _detection_gain(prev, new), [[0, 0, 0, 0.9], [0, 0, 0, 0]], atol=1e-6
    )


def test_a_box_on_a_border_or_without_area_paints_nothing_beyond():
    # Ends exactly where block 1 begins; the second has no width.
    new = _detections((0, 0, 20, 20, 0.5), (50, 5, 50, 15, 0.9))
    np.testing.assert_allclose(
        _detection_gain(_detections(), new), [[0.5, 0, 0, 0], [0, 0, 0, 0]], rtol=1e-6
    )


def test_a_match_is_painted_where_it_was():
    # The match spans blocks 0 and 1, the new box block 0 only: both get the gain.
    # Intersection 15x10, union 30x10: IoU 1/2.
    prev, new = _detections((0, 0, 30, 10, 1.0)), _detections((0, 0, 15, 10, 1.0))
    np.testing.assert_allclose(_detection_gain(prev, new)[0], [0.5, 0.5, 0, 0], rtol=1e-6)


def test_streams_of_detections_are_apart():
    a, b = _detections((0, 0, 20, 20, 0.8)), _detections((45, 5, 75, 35, 0.7))
    both = tuple(jnp.concatenate(x) for x in zip(a, b, strict=True))
    nothing = tuple(jnp.concatenate([x, x]) for x in _detections())
    gain = detection_gain(nothing, both)
    np.testing.assert_allclose(gain[0], _detection_gain(_detections(), a))
    np.testing.assert_allclose(gain[1], _detection_gain(_detections(), b))


def test_cost_is_positive_below_the_target_and_negative_above():
    np.testing.assert_allclose(cost_reward(0.3, 0.5), 0.04, rtol=1e-5)
    np.testing.assert_allclose(cost_reward(0.7, 0.5), -0.04, rtol=1e-5)
    assert cost_reward(0.5, 0.5) == 0


def test_running_fraction_by_hand():
    np.testing.assert_allclose(running_fraction(0.5, 1.0), 0.55)
    np.testing.assert_allclose(running_fraction(0.5, 1.0, momentum=0.5), 0.75)
