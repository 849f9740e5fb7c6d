"""The networks: trained weights against the authors' outputs, layers against slow loops, sizes."""

import ast
import functools
import math
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import bc_jax
from bc_jax.data import shipped_clips
from bc_jax.data.street import Clip, StreetConfig
from bc_jax.evaluation import pixel_classes
from bc_jax.metrics import confusion, miou
from bc_jax.models import (
    NAMES,
    TRAINED,
    DeepLabV3Plus,
    ESPNet,
    SwiftNet,
    load,
    read_variables,
    write_variables,
)
from bc_jax.models.layers import PReLU, adaptive_avg_pool, conv, resize_bilinear
from bc_jax.models.variables import flatten, random_variables


@pytest.fixture(scope="module")
def espnet():
    network = load("espnet_cityscapes")
    return network, jax.jit(network.apply_fn)


@pytest.fixture(scope="module")
def reference(root):
    with np.load(root / "tests/data/espnet_reference.npz", allow_pickle=False) as file:
        return dict(file)


def template(module):
    return jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


# --- ESPNet, with its weights ---


def test_espnet_gives_its_authors_logits(espnet, reference):
    network, apply_fn = espnet
    frames = reference["image_bgr"][None, ..., ::-1]
    logits = np.asarray(apply_fn(network.params, frames))[0]
    assert logits.shape == (128, 256, 20)
    # Every third pixel both ways meets all phases of the 8x upsampling.
    np.testing.assert_allclose(logits[::3, ::3], reference["logits_every_third"], atol=1e-3)
    np.testing.assert_array_equal(logits.argmax(-1), reference["classes"])


def test_espnet_gives_its_authors_classes_on_a_whole_frame(espnet, reference, root):
    network, apply_fn = espnet
    frames = np.asarray(Image.open(root / "tests/data/frame300.png"))[None]
    assert frames.shape == (1, 576, 768, 3)
    classes = np.asarray(apply_fn(network.params, frames))[0].argmax(-1)
    expected = reference["frame300_classes"]
    assert (classes == expected).mean() >= 0.999
    # The picture is worth the comparison: it holds persons, and several classes besides.
    assert (classes == network.class_names.index("person")).sum() > 500
    assert len(np.unique(expected)) > 5


def test_uint8_and_float_frames_give_the_same(espnet, reference):
    network, apply_fn = espnet
    frames = reference["image_bgr"][None, :64, :64, ::-1]
    from_uint8 = apply_fn(network.params, frames)
    from_float = apply_fn(network.params, frames.astype(np.float32) / 255)
    np.testing.assert_allclose(from_uint8, from_float, atol=1e-4)


def test_espnet_in_bfloat16_keeps_the_classes(reference):
    frames = reference["image_bgr"][None, ..., ::-1]

    def logits_in(dtype):
        network = load("espnet_cityscapes", dtype=dtype)
        logits = jax.jit(network.apply_fn)(network.params, frames)
        assert logits.dtype == dtype
        return np.asarray(logits[0], np.float32)

    logits, exact = logits_in(jnp.bfloat16), logits_in(jnp.float32)
    # Of 8 bits the last is worth 0.06 at the largest logits: closer classes are as good as tied,
    # and which of them wins depends on the order in which a processor adds.
    second, first = np.partition(exact, -2)[..., -2:].transpose(2, 0, 1)
    clear = first - second > 0.2
    assert clear.mean() > 0.9
    assert (logits.argmax(-1) == reference["classes"])[clear].mean() > 0.995
    assert np.abs(logits - exact).mean() < 0.004 * np.abs(exact).max()


def test_espnet_says_which_sizes_it_takes():
    network = load("espnet_cityscapes")
    with pytest.raises(ValueError, match=r"100x64 pixels.*multiples of 8; pad to 104x64"):
        network.apply_fn(network.params, jnp.zeros((1, 100, 64, 3)))


@pytest.mark.parametrize("name", TRAINED)
def test_a_network_takes_frames_of_its_multiple(name):
    network = load(name)
    frames = jax.ShapeDtypeStruct((1, 7 * network.multiple, 9 * network.multiple, 3), jnp.uint8)
    jax.eval_shape(network.apply_fn, network.params, frames)


def equations(jaxpr, names=()):
    """Every equation of a jaxpr and those called within, with the names of the calls around it."""
    for equation in jaxpr.eqns:
        yield equation, names
        inner = (*names, equation.params.get("name", equation.primitive.name))
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from equations(value.jaxpr, inner)
            elif hasattr(value, "eqns"):
                yield from equations(value, inner)


def traced(module, shape):
    variables = template(module)
    return jax.make_jaxpr(module.apply)(variables, jax.ShapeDtypeStruct(shape, jnp.float32)).jaxpr


def test_espnet_branches_read_one_tensor_and_upsampling_is_one_convolution():
    readers, transposed = defaultdict(set), 0
    for equation, _ in equations(traced(ESPNet(), (1, 64, 64, 3))):
        if equation.primitive.name == "conv_general_dilated":
            readers[equation.invars[0]].add(equation.params["rhs_dilation"][0])
            transposed += equation.params["lhs_dilation"] == (2, 2)
    blocks = [dilations for dilations in readers.values() if dilations == {1, 2, 4, 8, 16}]
    assert len(blocks) == 2 + 2 + 8 + 1  # downsampling, level 2, level 3, decoder
    assert transposed == 3


def explained(module):
    """What `explain` says of a network at 1024x2048 in blocks of 128."""
    sparse = bc_jax.blockcopy(module.apply, block_size=128)
    frames = jax.ShapeDtypeStruct((1, 1024, 2048, 3), jnp.float32)
    return sparse.explain(template(module), frames)


# --- SwiftNet ---


def macs(module, height, width):
    """Multiply-accumulates of convolutions and matrix products; resizing is left out, as usual."""
    total = 0
    for equation, names in equations(traced(module, (1, height, width, 3))):
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += equation.outvars[0].aval.size * math.prod(kernel) // features
        elif equation.primitive.name == "dot_general" and "_resize" not in names:
            contracted = equation.params["dimension_numbers"][0][0]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += equation.outvars[0].aval.size * depth
    return total


@pytest.mark.parametrize("backbone, gmacs", [("resnet18", 104.0), ("resnet50", 205.8)])
def test_swiftnet_costs_what_its_authors_report(backbone, gmacs):
    module = SwiftNet(backbone)
    assert macs(module, 1024, 2048) / 1e9 == pytest.approx(gmacs, rel=0.02)
    # `explain` counts the resizing too, which is little.
    assert explained(module).macs / 1e9 == pytest.approx(gmacs, rel=0.02)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize("size", [(64, 128), (65, 99)])
def test_swiftnet_gives_logits_at_stride_4_for_any_size(backbone, size):
    module = SwiftNet(backbone, num_classes=7, base_width=8, decoder_width=12)
    logits = jax.eval_shape(module.apply, template(module), jnp.zeros((2, *size, 3)))
    assert logits.shape == (2, -(-size[0] // 4), -(-size[1] // 4), 7)


def test_swiftnet_widths_are_adjustable():
    wide, narrow = (
        sum(leaf.size for leaf in jax.tree.leaves(template(module)["params"]))
        for module in (SwiftNet(), SwiftNet(base_width=16, decoder_width=32))
    )
    assert wide == pytest.approx(11.8e6, rel=0.01)
    assert narrow < wide / 15


def test_swiftnet_knows_its_backbones():
    with pytest.raises(ValueError, match="'resnet19': choose one of resnet18, resnet34, resnet50"):
        template(SwiftNet("resnet19"))


# --- DeepLabV3+ ---


def resnet_gmacs(blocks, output_stride):
    """A bottleneck ResNet without its classifier at 1024x2048, summed up by hand."""
    pixels = 1024 * 2048 / 1e9
    total = pixels / 4 * 49 * 3 * 64
    stride, inputs = 4, 64
    for stage, count in enumerate(blocks):
        width, before = 64 * 2**stage, stride
        stride = min(4 * 2**stage, output_stride)
        for i in range(count):
            # 1x1 (at the stride before), 3x3, 1x1, and the first block's 1x1 beside them.
            total += pixels / (before if i == 0 else stride) ** 2 * inputs * width
            total += pixels / stride**2 * (9 * width * width + width * 4 * width)
            total += pixels / stride**2 * inputs * 4 * width if i == 0 else 0
            inputs = 4 * width
    return total


@pytest.mark.parametrize(
    "backbone, blocks", [("resnet50", (3, 4, 6, 3)), ("resnet101", (3, 4, 23, 3))]
)
@pytest.mark.parametrize("output_stride", [16, 8])
def test_deeplab_runs_in_blocks_but_for_its_image_pooling(backbone, blocks, output_stride):
    module = DeepLabV3Plus(backbone, output_stride=output_stride)
    report = explained(module)
    pixels = 1024 * 2048 / 1e9
    # Pyramid: three 3x3 and a 1x1 of 2048 channels, a 1x1 of 5 * 256; decoder at stride 4.
    pyramid = pixels / output_stride**2 * 256 * (2048 * (3 * 9 + 1) + 5 * 256)
    decoder = pixels / 16 * (256 * 48 + 9 * 304 * 256 + 256 * 19)
    expected = resnet_gmacs(blocks, output_stride) + pyramid + decoder
    assert report.macs / 1e9 == pytest.approx(expected, rel=0.002)

    (pooling,) = report.fallbacks
    assert pooling.name == "reduce_sum" and pooling.shape == (1, 2048)
    # After it one matrix product runs whole, on a single pixel; one value per block is kept.
    assert report.whole_macs == 2048 * 256
    kept = {name: size for name, size in report.memory_bytes.items() if name.startswith("dense")}
    assert list(kept.values()) == [8 * 16 * 2048 * 4]


def test_deeplab_at_a_finer_stride_has_the_same_parameters():
    coarse, fine = (template(DeepLabV3Plus(output_stride=stride)) for stride in (16, 8))
    assert flatten(coarse).keys() == flatten(fine).keys()
    assert all(leaf.shape == flatten(fine)[name].shape for name, leaf in flatten(coarse).items())


def test_deeplab_knows_its_output_strides():
    with pytest.raises(ValueError, match=r"output stride 4: choose one of \(16, 8\)"):
        template(DeepLabV3Plus(output_stride=4))


def test_deeplab_in_blocks_is_deeplab():
    module = DeepLabV3Plus("resnet50", 5, base_width=4, pyramid_width=8, low_level_width=4)
    variables = random_variables(jax.random.key(0), template(module))
    sparse = bc_jax.blockcopy(module.apply, block_size=64)
    run = jax.jit(sparse.advance)
    first, second = jax.random.uniform(jax.random.key(1), (2, 1, 128, 192, 3))
    expected = jax.jit(module.apply)(variables, second)
    everything, grid = np.ones((1, 2, 3), bool), np.array([[[1, 0, 1], [0, 1, 0]]], bool)

    def error(outputs):
        return np.abs(outputs - expected).max() / np.abs(expected).max()

    old = run(variables, sparse.init(variables, first), first, everything)
    new = run(variables, old, second, grid)
    # A block that is not executed keeps its output; one that is sees the others' share of the mean
    # as it was.
    executed = grid.repeat(16, axis=1).repeat(16, axis=2)
    np.testing.assert_array_equal(new.outputs[~executed], old.outputs[~executed])
    assert (new.outputs != old.outputs)[executed].all() and error(new.outputs) > 1e-2
    full = run(variables, new, second, everything)
    assert error(full.outputs) < 1e-4
    # A frame that has not changed gives the dense network's result for any grid.
    assert error(run(variables, full, second, grid).outputs) < 1e-4


@pytest.mark.parametrize(
    "module", [SwiftNet(base_width=4, decoder_width=6), ESPNet(depth2=1, depth3=1)]
)
def test_training_updates_all_batch_statistics(module):
    variables = random_variables(jax.random.key(0), template(module))
    x = jax.random.normal(jax.random.key(1), (2, 64, 64, 3))
    apply = jax.jit(functools.partial(module.apply, train=True, mutable="batch_stats"))
    logits, updated = apply(variables, x)
    assert np.isfinite(logits).all()
    for name, old in flatten(variables["batch_stats"]).items():
        assert not np.array_equal(old, flatten(updated["batch_stats"])[name]), name


# --- load ---


@pytest.mark.parametrize("name", NAMES)
def test_every_name_loads_and_describes_itself(name):
    key = None if name in TRAINED else jax.random.key(0)
    network = load(name, key=key)
    frames = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.uint8)
    logits = jax.eval_shape(network.apply_fn, network.params, frames)
    classes = len(network.class_names)
    assert logits.shape == (2, 64 // network.stride, 96 // network.stride, classes)
    assert set(network.params) == {"params", "batch_stats"}
    assert network.palette.shape == (classes, 3) and network.palette.dtype == np.uint8
    assert len(np.unique(network.palette, axis=0)) == classes
    assert network.class_names[11] == "person"


def test_any_number_of_classes_has_names_and_colours():
    network = load("swiftnet_rn18", base_width=4, num_classes=150, key=jax.random.key(0))
    assert network.class_names[149] == "class 149"
    assert len(np.unique(network.palette, axis=0)) == 150


def small(**options):
    return load("swiftnet_rn18", base_width=4, decoder_width=6, **options)


def test_one_architecture_has_one_apply_fn():
    first, second = small(key=jax.random.key(0)), small(key=jax.random.key(1))
    assert first.apply_fn is second.apply_fn
    assert first.apply_fn is not small(key=jax.random.key(0), num_classes=5).apply_fn


def test_random_parameters_follow_the_key_and_the_initialisers():
    module = ESPNet(depth2=0, depth3=0)
    # This generator's programs compile fast.
    key = jax.random.key(0, impl="unsafe_rbg")
    own = flatten(jax.jit(module.init)(key, jnp.zeros((1, 8, 8, 3))))
    drawn = flatten(random_variables(jax.random.key(0), template(module)))
    assert own.keys() == drawn.keys()
    for name, leaf in own.items():
        if name.endswith("/kernel"):
            # Five standard errors of the two estimates' difference.
            ratio = np.std(np.asarray(drawn[name])) / np.std(np.asarray(leaf))
            assert abs(ratio - 1) < 5 * math.sqrt(1 / leaf.size), name
        else:
            np.testing.assert_array_equal(leaf, drawn[name], err_msg=name)
    again = flatten(random_variables(jax.random.key(0), template(module)))
    other = flatten(random_variables(jax.random.key(1), template(module)))
    name = "params/encoder/level1/conv/kernel"
    np.testing.assert_array_equal(drawn[name], again[name])
    assert not np.array_equal(drawn[name], other[name])


def test_a_network_has_classes():
    with pytest.raises(ValueError, match="num_classes is 0; it is 1 or more"):
        bc_jax.models.load("swiftnet_rn18", key=jax.random.key(0), num_classes=0)


@pytest.mark.parametrize("kind", ["video", "array", "text", "empty", "cut", "pickled"])
def test_a_file_that_holds_no_parameters_is_named(tmp_path, kind):
    path = tmp_path / "weights.npz"
    if kind == "video":
        path.write_bytes(shipped_clips()["pedestrians"].read_bytes()[:1000])
    elif kind == "array":
        np.save(path.open("wb"), np.zeros(3))
    elif kind == "pickled":
        np.savez(path, a=np.array([{}], dtype=object))
    elif kind == "cut":
        np.savez(path, a=np.zeros(300))
        path.write_bytes(path.read_bytes()[:-50])
    else:
        path.write_text("a text" if kind == "text" else "")
    with pytest.raises(ValueError, match=r"weights\.npz is damaged, or no .*\.npz files") as error:
        read_variables(path)
    assert "allow_pickle" not in str(error.value)


def test_load_takes_parameters_and_names_those_that_do_not_fit(tmp_path):
    network = small(key=jax.random.key(0))
    write_variables(tmp_path / "weights.npz", network.params)
    stored = read_variables(tmp_path / "weights.npz")
    jax.tree.map(np.testing.assert_array_equal, stored, network.params)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.npz"]
    assert small(params=stored).apply_fn is network.apply_fn

    del stored["params"]["spp"]["spp0"]
    stored["params"]["more"] = np.zeros(1)
    stored["params"]["logits"]["conv"]["bias"] = np.zeros(3)
    with pytest.raises(ValueError, match="5 entries do not fit") as error:
        small(params=stored)
    for fault in (
        "missing params/spp/spp0/conv/kernel",
        "missing params/spp/spp0/norm/scale",
        "surplus params/more",
        r"misshapen params/logits/conv/bias: (3,), not (19,)",
    ):
        assert fault in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_wdith": 8}, "has no option 'base_wdith'; it has .*; did you mean 'base_width'"),
        ({"backbone": "resnet50"}, "has no option 'backbone'; it has num_classes, base_width"),
        ({"parent": 1}, "has no option 'parent'"),
        ({"base_width": "abc"}, "base_width of swiftnet_rn18 is 'abc'; it is a whole number"),
        ({"num_classes": 2.5}, "num_classes of swiftnet_rn18 is 2.5; it is a whole number"),
    ],
)
def test_load_says_which_options_there_are(options, message):
    with pytest.raises(ValueError, match=message):
        load("swiftnet_rn18", key=jax.random.key(0), **options)


def test_load_says_what_is_possible():
    with pytest.raises(ValueError, match=r"'swiftnet'.*espnet_cityscapes, swiftnet_street, swift"):
        load("swiftnet")
    with pytest.raises(ValueError, match="no weights of its own: give key="):
        load("swiftnet_rn18")
    with pytest.raises(ValueError, match="comes with its weights"):
        load("espnet_cityscapes", key=jax.random.key(0))


@pytest.mark.parametrize(
    "frames, message",
    [
        (jnp.zeros((1, 64, 64, 3), jnp.int32), "type int32: give uint8, or floating point"),
        (jnp.zeros((64, 64, 3), jnp.uint8), r"shape \(64, 64, 3\): RGB frames are \[N, H, W, 3\]"),
        (jnp.zeros((1, 64, 64, 4), jnp.uint8), r"shape \(1, 64, 64, 4\)"),
    ],
)
def test_frames_of_another_kind_are_refused(frames, message):
    network = small(key=jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        network.apply_fn(network.params, frames)


def test_models_import_nothing_of_the_project_but_models(root):
    for file in (root / "bc_jax/models").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1 and not (node.module or "").startswith("bc_jax"), file
            elif isinstance(node, ast.Import):
                assert not any(name.name.startswith("bc_jax") for name in node.names), file


# --- layers, against loops ---


@pytest.mark.parametrize("size", [(8, 16), (7, 13), (32, 64), (3, 5)])
@pytest.mark.parametrize("grid", [(8, 16), (4, 7), (2, 4), (1, 1)])
def test_adaptive_pooling_averages_each_cell(size, grid):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    expected = np.zeros((2, *grid, 3))
    for i, j in np.ndindex(*grid):
        top, bottom = math.floor(i * size[0] / grid[0]), math.ceil((i + 1) * size[0] / grid[0])
        left, right = math.floor(j * size[1] / grid[1]), math.ceil((j + 1) * size[1] / grid[1])
        expected[:, i, j] = x[:, top:bottom, left:right].mean(axis=(1, 2))
    np.testing.assert_allclose(adaptive_avg_pool(jnp.asarray(x), grid), expected, atol=1e-6)


def test_adaptive_pooling_of_doubles_keeps_their_precision():
    x = np.random.default_rng(0).normal(size=(1, 8, 16, 3))
    with jax.enable_x64(True):
        found = adaptive_avg_pool(jnp.asarray(x), (4, 8))
        assert found.dtype == np.float64
        expected = x.reshape(1, 4, 2, 8, 2, 3).mean((2, 4))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("grid", [(4, 8), (2, 4), (3, 5), (1, 1)])
def test_adaptive_pooling_of_halves_rounds_once(dtype, grid):
    x = jnp.asarray(np.random.default_rng(0).uniform(200, 400, (1, 32, 64, 3)), dtype)
    expected = adaptive_avg_pool(x.astype(jnp.float32), grid)
    pooled = adaptive_avg_pool(x, grid)
    assert pooled.dtype == x.dtype
    step = 2.0 ** (-8 if dtype == "bfloat16" else -11)
    # Cells that overlap are summed by matrices, whose weights are rounded too.
    several = 4 if grid == (3, 5) else 1
    np.testing.assert_allclose(pooled.astype(jnp.float32), expected, rtol=several * step)


@pytest.mark.parametrize("size", [(6, 10), (12, 20), (7, 9), (2, 3)])
def test_resizing_interpolates_between_pixel_centres(size):
    x = np.random.default_rng(1).normal(size=(1, 6, 10, 2)).astype(np.float32)
    expected = np.zeros((1, *size, 2))
    for i, j in np.ndindex(*size):
        y = np.clip((i + 0.5) * 6 / size[0] - 0.5, 0, 5)
        z = np.clip((j + 0.5) * 10 / size[1] - 0.5, 0, 9)
        top, left = int(y), int(z)
        bottom, right = min(top + 1, 5), min(left + 1, 9)
        b, r = y - top, z - left
        upper = (1 - r) * x[0, top, left] + r * x[0, top, right]
        lower = (1 - r) * x[0, bottom, left] + r * x[0, bottom, right]
        expected[0, i, j] = (1 - b) * upper + b * lower
    np.testing.assert_allclose(resize_bilinear(jnp.asarray(x), size), expected, atol=1e-5)


def test_prelu_scales_what_is_negative():
    x = jnp.array([[[[-2.0, -2.0], [3.0, 3.0]]]])
    variables = {"params": {"alpha": jnp.array([0.5, -1.0])}}
    expected = [[[[-1.0, 2.0], [3.0, 3.0]]]]
    np.testing.assert_array_equal(PReLU().apply(variables, x), expected)


def test_convolutions_pad_both_sides_alike():
    x = jnp.arange(6.0).reshape(1, 1, 6, 1)
    ones = {"params": {"kernel": jnp.ones((3, 3, 1, 1))}}
    # Sums of (pad, 0, 1), (1, 2, 3), (3, 4, 5); 'SAME' would have begun at (0, 1, 2).
    np.testing.assert_array_equal(conv(1, 3, stride=2).apply(ones, x).ravel(), [1.0, 6.0, 12.0])


def test_the_weights_for_streets_know_a_street():
    network = load("swiftnet_street")
    matrix = 0
    for number in (0, 1, 2):
        frame = Clip(StreetConfig(), "val", number).frame(19)
        logits = jax.jit(network.apply_fn)(network.params, frame.image[None])
        found = np.asarray(pixel_classes(logits, frame.labels.shape))[0]
        matrix = matrix + confusion(found, frame.labels, classes=19)
    # Three frames have few of the rare classes; over 100 the mean is in docs/own-weights.md.
    assert miou(matrix) > 0.5
    assert np.trace(matrix) > 0.9 * matrix.sum()
