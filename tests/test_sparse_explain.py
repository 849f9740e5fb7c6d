"""What `explain` tells of a network: its table, whose memory is whose, and what to change."""

import re
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import bc_jax
from bc_jax.lowering import backend
from bc_jax.sparse import BlockSparsityWarning


def report_of(network, kernels, *, block=16, size=(64, 96), streams=1):
    shapes = [jax.ShapeDtypeStruct(k, jnp.float32) for k in kernels]
    frames = jax.ShapeDtypeStruct((streams, *size, 3), jnp.float32)
    return bc_jax.blockcopy(network, block_size=block).explain(shapes, frames)


def convolutions(p, x):
    x = jax.nn.relu(zoo.conv(x, p[0], 2))
    x = jax.nn.relu(zoo.conv(x, p[1], rhs_dilation=(2, 2)))
    return zoo.conv(x, p[2])


KERNELS = [(3, 3, 3, 8), (3, 3, 8, 8), (1, 1, 8, 4)]


def test_rows_tell_window_tile_halo_and_cost(monkeypatch):
    monkeypatch.setattr(backend, "on_cpu", lambda: False)
    rows = [row for row in report_of(convolutions, KERNELS).rows if row.macs]
    assert [row.label for row in rows] == ["conv 3x3/2", "conv 3x3 dilation 2", "conv 1x1"]
    assert [row.tile for row in rows] == [(16, 16), (8, 8), (8, 8)]
    assert [tuple(row.halo or ()) for row in rows] == [(0, 1, 0, 1), (2, 2, 2, 2), ()]
    assert [row.macs for row in rows] == [32 * 48 * n for n in (9 * 3 * 8, 9 * 8 * 8, 8 * 4)]
    assert rows[1].pixels_read == pytest.approx(12 * 12 / 64)
    read = (64 * 96 * 3 * (17 / 16) ** 2 + 32 * 48 * 8 * (2.25 + 1)) / (64 * 96 * 3 + 32 * 48 * 16)
    assert report_of(convolutions, KERNELS).pixels_read == pytest.approx(read)


KERAS = ("ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "MobileNetV3Small", "ResNet50", "VGG16")


@pytest.mark.parametrize("name", KERAS)
def test_networks_of_keras_run_on_blocks(name):
    applications, size = pytest.importorskip("keras").applications, (256, 384, 3)
    with jax.numpy_rank_promotion("allow"):
        model = getattr(applications, name)(weights=None, include_top=False, input_shape=size)
        kinds = model.trainable_variables, model.non_trainable_variables
        params = [[jax.ShapeDtypeStruct(v.shape, v.dtype) for v in kind] for kind in kinds]

        def apply(params, frames):
            return model.stateless_call(*params, frames, training=False)[0]

        frames = jax.ShapeDtypeStruct((1, *size), jnp.float32)
        report = bc_jax.blockcopy(apply, block_size=128).explain(params, frames)
    assert report.macs > 1e8
    assert report.whole_macs < 0.01 * report.macs
    assert {row.name for row in report.fallbacks} <= {"reduce_sum"}  # squeeze and excite


# Networks that between them remember in every way: rings, frames, one value a block, whole arrays.
KINDS = (
    *("plain_cnn", "unet_nearest", "five_branches", "whole_norms", "attention", "control_flow"),
    *("nchw", "whole_shuffles", "equinox", "keras", "multi_output"),
)


@pytest.mark.parametrize("name", KINDS)
def test_every_remembered_byte_belongs_to_one_operation(name):
    network = zoo.build(name)
    frames = jax.ShapeDtypeStruct((zoo.N, zoo.H, zoo.W, 3), network.dtype)
    sparse = bc_jax.blockcopy(network.apply, network.block)
    report = sparse.explain(network.params, frames)
    assert sum(row.state_bytes for row in report.rows) == sum(report.memory_bytes.values())
    for row in report.rows:
        if row.state_bytes and row.where == "blocks":
            assert row.halo is not None or row.reads_all, f"{row.label} keeps what no window reads"


def test_memory_stands_where_the_tensor_is_first_read():
    def branches(p, x):
        x = zoo.conv(x, p[0], 2)
        return zoo.conv(x, p[1]) + zoo.conv(x, p[1], rhs_dilation=(4, 4))

    report = report_of(branches, KERNELS[:2])
    stem, first, second = [row for row in report.rows if row.macs]
    assert stem.state_bytes and first.state_bytes
    assert second.state_bytes == 0  # it reads what the first one keeps
    assert f"{first.state_bytes / 1e3:.2f} kB" in str(report)


def attending(p, x):
    x = zoo.conv(x, p[0], 8)
    n, h, w, c = x.shape
    tokens = x.reshape(n, h * w, c)
    scores = jax.nn.softmax(tokens @ tokens.swapaxes(1, 2), axis=-1)
    return zoo.conv((scores @ tokens).reshape(n, h, w, c), p[1])


def test_attention_runs_on_blocks_that_read_all():
    report = report_of(attending, KERNELS[:2], block=32)
    assert report.whole_macs == 0
    assert not report.fallbacks
    scores, mixed = [row for row in report.rows if row.name == "dot_general"]
    assert scores.macs == mixed.macs == (8 * 12) ** 2 * 8
    assert scores.reads_all
    assert mixed.reads_all
    assert sum(row.state_bytes for row in (scores, mixed)) == 8 * 12 * 8 * 4  # the tokens, once
    assert re.search(r"dot_general .* blocks +all", str(report))


def mixing(p, x):
    x = zoo.conv(x, p[0], 8)
    n, h, w, c = x.shape
    tokens = x.reshape(n, h * w, c)
    covariance = tokens.swapaxes(1, 2) @ tokens  # of all of space, and larger than its tokens
    return zoo.conv((tokens @ covariance).reshape(n, h, w, c), p[1])


def test_a_fallback_is_charged_with_all_that_it_makes_whole():
    report = report_of(mixing, KERNELS[:2], block=8)
    (number,) = [n for n, row in enumerate(report.rows) if row.reason]
    assert report.forced_macs(number) == report.whole_macs == 8 * 12 * 8 * 8
    share = 100 * report.whole_macs / report.macs
    (line,) = [each for each in report.advice() if "to be dense" in each]
    assert f"forces {share:.1f} % of the work to be dense" in line
    assert line.startswith("dot_general [1, 8, 8]")
    assert line in str(report)


def test_what_is_forced_twice_counts_for_each_and_is_not_summed():
    def twice(p, x):
        flipped = jnp.flip(zoo.conv(x, p[0], 2), axis=1)
        return jax.lax.cond(flipped[0, 0, 0, 0] > 0, lambda v: zoo.conv(v, p[1]), jnp.abs, flipped)

    report = report_of(twice, KERNELS[:2])
    named = {row.name: report.forced_macs(n) for n, row in enumerate(report.rows) if row.reason}
    assert named["rev"] == named["cond"] == report.whole_macs


def dilated(p, x):
    return zoo.conv(zoo.conv(x, p[0], 2), p[1], rhs_dilation=(8, 8))


def test_a_halo_that_eats_the_gain_is_told_with_what_larger_blocks_would_do(monkeypatch):
    monkeypatch.setattr(backend, "on_cpu", lambda: False)
    (line,) = report_of(dilated, KERNELS[:2]).advice()
    assert "9.0 pixels for each pixel of its tiles of 8x8" in line
    assert "blocks of 32x32 would make it 4.0" in line
    larger = report_of(dilated, KERNELS[:2], block=32, size=(64, 96))
    assert max(row.pixels_read for row in larger.rows) == pytest.approx(4)
    assert not any("halo" in each for each in report_of(convolutions, KERNELS).advice())


def test_moved_tiles_have_no_halo_that_eats_the_gain(monkeypatch):
    monkeypatch.setattr(backend, "on_cpu", lambda: True)
    report = report_of(dilated, KERNELS[:2])
    assert [row.moved for row in report.rows if row.macs] == [False, True]
    assert report.rows[-1].halo == (8, 8, 8, 8) and report.rows[-1].pixels_read == 1
    assert report.advice() == ()


def test_tiles_of_which_strips_are_kept_are_not_moved(monkeypatch):
    monkeypatch.setattr(backend, "on_cpu", lambda: True)
    rows = report_of(convolutions, KERNELS, block=64, size=(128, 192)).rows
    (row,) = (row for row in rows if row.label.endswith("dilation 2"))
    assert (row.tile, row.moved) == ((32, 32), False)
    assert row.pixels_read == pytest.approx(36 * 36 / 32**2)


def test_tiles_that_are_too_small_are_told_with_the_block_that_is_not():
    def strided(p, x):
        return zoo.conv(zoo.conv(x, p[0], 8), p[2])

    (line,) = report_of(strided, KERNELS).advice()
    assert "tiles of down to 2x2" in line
    assert "blocks of 32x32 would make them 4x4" in line
    assert report_of(strided, KERNELS, block=32).advice() == ()


def test_windows_that_do_not_divide_a_tile_are_told_with_the_block_that_they_divide():
    def windows(p, x):
        x = zoo.conv(x, p[0], 2)
        n, h, w, c = x.shape
        y = x.reshape(n, h // 8, 8, w // 8, 8, c).transpose(0, 1, 3, 2, 4, 5)
        y = y.reshape(n, h // 8, w // 8, 64, c)
        y = ((y - y.mean(axis=3, keepdims=True)) @ p[2][0, 0]).reshape(n, h // 8, w // 8, 8, 8, 4)
        return y.transpose(0, 1, 3, 2, 4, 5).reshape(n, h, w, 4)

    report = report_of(windows, KERNELS, block=8, size=(64, 96))
    (line,) = [each for each in report.advice() if "to be dense" in each]
    assert "blocks of 16x16 would not do so" in line
    assert not report_of(windows, KERNELS, block=16, size=(64, 96)).whole_macs


@pytest.mark.parametrize("size", [(64, 64), (256, 256)])
@pytest.mark.parametrize("block", [8, 16])
def test_it_is_content_with_the_block_that_it_advises(block, size):
    def deep(p, x):  # what falls back with small blocks has tiles too small with larger ones
        for kernel in p[:-1]:
            x = zoo.conv(x, kernel, 2)
        return zoo.conv(x, p[-1], rhs_dilation=(4, 4))

    kernels = [(3, 3, 3, 8), *[(3, 3, 8, 8)] * 5]
    lines = [line for line in report_of(deep, kernels, block=block, size=size).advice()]
    (larger,) = {int(side) for line in lines for side in re.findall(r"blocks of (\d+)x", line)}
    assert block < larger <= size[0] // 2
    content = report_of(deep, kernels, block=larger, size=size)
    assert not any("blocks of" in line for line in content.advice())


def repeated(kernel, x, times: int = 1):
    """A loop of convolutions, whose turns are not known before it runs."""

    def turn(carry):
        x, number = carry
        for _ in range(times):
            x = zoo.conv(x, kernel)
        return x, number + 1

    return jax.lax.while_loop(lambda carry: carry[1] < 1 + abs(kernel[0, 0, 0, 0]), turn, (x, 0))[0]


def looping(p, x):
    return repeated(p[0], x)


def test_a_network_that_gains_nothing_warns():
    kernel = [(3, 3, 3, 3)]
    with pytest.warns(BlockSparsityWarning, match=r"100\.0 % .* while .*no rule for while"):
        report_of(looping, kernel)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report_of(convolutions, KERNELS)
        report_of(attending, KERNELS[:2], block=32)


def test_the_runner_warns_too():
    params = [np.zeros((3, 3, 3, 3), np.float32)]
    runner = bc_jax.Runner(looping, params, block_size=16, policy="all")
    with pytest.warns(BlockSparsityWarning):
        runner(np.zeros((16, 16, 3), np.float32))


def test_the_table_is_aligned_and_sums_up():
    report = report_of(convolutions, KERNELS, streams=2)
    lines = str(report).splitlines()
    head, total = lines[0], next(line for line in lines if line.startswith("all "))
    ends = head.index("MACs") + 4
    assert {line[:ends].rstrip()[-1] for line in lines[2:5]} <= {"M", "k"}
    assert total[:ends].rstrip().endswith(f"{report.macs / 1e6:.2f} M")
    assert "100.0 %" in total
    assert f"{report.state_bytes / 1e3:.2f} kB" in total
    assert "2 stream(s) of 4 x 6 blocks of 16x16" in str(report)
    assert "3.33 times fewer MACs" in str(report)


class Stage(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3), name="conv")(x))
        kernel = jnp.ones((3, 3, 6, 6))
        return repeated(kernel, x, times=10)


class Staged(nn.Module):
    """Layers inside every kind of call that tracing enters."""

    @nn.compact
    def __call__(self, x):
        x = Stage(name="plain")(x)
        x = nn.remat(Stage)(name="remat")(x)
        x = jax.jit(lambda y: nn.Conv(6, (3, 3), name="jitted")(y))(x)
        with jax.named_scope("scope"):
            x = jax.jit(lambda y: zoo.conv(y, jnp.ones((1, 1, 6, 6))))(x)
        return nn.Conv(4, (1, 1), name="head")(x)


def flax_report(module):
    frames = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), frames)
    return bc_jax.blockcopy(module.apply, block_size=16).explain(params, frames)


@pytest.mark.filterwarnings("ignore::bc_jax.sparse.BlockSparsityWarning")
def test_operations_are_told_with_their_layer():
    report = flax_report(Staged())
    convolutions = [row for row in report.rows if row.label.startswith("conv ")]
    layers = ["plain/conv", "remat/conv", "jitted", "scope", "head"]
    assert [row.layer for row in convolutions] == layers
    assert [row.layer for row in report.fallbacks] == ["plain", "remat"]
    head, _, *lines = str(report).splitlines()
    at = head.index("layer")
    told = {line[at:].split()[0] for line in lines if line.startswith("conv ")}
    assert told == set(layers)
    first = next(line for line in report.advice() if "to be dense" in line)
    assert first.startswith("while [1, 64, 96, 6] and 1 more like it in plain, remat force ")


def test_many_layers_are_counted_in_advice():
    class Many(nn.Module):
        @nn.compact
        def __call__(self, x):
            for number in range(5):
                x = Stage(name=f"stage{number}")(x)
            return x

    with pytest.warns(BlockSparsityWarning, match=r"while \[1, 64, 96, 6\] in stage0: "):
        report = flax_report(Many())
    (line,) = [line for line in report.advice() if "to be dense" in line]
    assert "in stage0, stage1, stage2 and 2 other layer(s) force" in line


def test_without_names_there_is_no_column_of_layers():
    report = report_of(convolutions, KERNELS)
    assert {row.layer for row in report.rows} == {""}
    assert "layer" not in str(report)
    assert str(report).splitlines()[0].split()[:2] == ["operation", "result"]


def test_a_name_that_not_all_layers_share_stays():
    def twice(p, x):
        with jax.named_scope("backbone"):
            x = zoo.conv(x, p[0], 2)
        with jax.named_scope("head"):
            return zoo.conv(x, p[1])

    rows = [row for row in report_of(twice, KERNELS[:2]).rows if row.macs]
    assert [row.layer for row in rows] == ["backbone", "head"]

    def one(p, x):
        with jax.named_scope("net"):
            return zoo.conv(x, p[0], 2)

    assert {row.layer for row in report_of(one, KERNELS[:1]).rows} == {"net"}
