"""Training a network with labels: the loss, one step, a run, and the weights that it leaves."""

import csv
import json
import math
import os
import shutil
import signal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bc_jax import build, train
from bc_jax import config as settings
from bc_jax.config import BlockConfig, Config, ModelConfig, TaskConfig, TrainConfig
from bc_jax.data.labels import CLASSES, IGNORE
from bc_jax.metrics import class_iou, miou
from bc_jax.models import load, read_variables, write_variables
from bc_jax.models import network as networks
from bc_jax.models.layers import batch_norm, conv
from bc_jax.supervised import (
    TaskLearner,
    cross_entropy,
    learning_rate,
)
from bc_jax.supervised import run as supervised
from bc_jax.supervised.learner import one_of_each_square
from bc_jax.supervised.validation import Validation, class_table, labelled_frames

SOURCE = "street:train/0-3?frames=2&noise=0"
SIZE = (32, 64)


class Small(nn.Module):
    """What takes little to compile: a stem, batch norm, class scores at half resolution."""

    num_classes: int = 19
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False):
        x = conv(8, 3, stride=2, dtype=self.dtype, name="stem")(x)
        x = nn.relu(batch_norm(train, self.dtype, "norm")(x))
        return conv(self.num_classes, 1, use_bias=True, dtype=self.dtype, name="logits")(x)


@pytest.fixture(scope="module", autouse=True)
def small():
    """It goes by the name 'small'."""
    with pytest.MonkeyPatch.context() as patch:
        entry = networks._Entry(Small, networks._IMAGENET, stride=2)
        patch.setitem(networks._ENTRIES, "small", entry)
        patch.setattr(settings, "NAMES", ("small",))
        yield


def config(folder, **task):
    fields = {
        "source": SOURCE,
        "size": SIZE,
        "steps": 6,
        "batch_size": 2,
        "crop": (32, 32),
        "scale": (0.8, 1.2),
        "workers": 0,
        "learning_rate": 0.02,
        "warm_up": 2,
        "class_balance": 0.5,
        "loss_stride": 2,
        "validate_every": 3,
        "validation": "street:val/0-1?frames=2",
        "validation_size": SIZE,
        "validation_frames": 1,
        "final_frames": 2,
    }
    return Config(
        name="tiny",
        model=ModelConfig("small"),
        blocks=BlockConfig(size=(32, 32)),
        train=TrainConfig(checkpoint_every=2, log_every=1, directory=str(folder)),
        task=TaskConfig(**fields | task),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    given = config(tmp_path_factory.mktemp("whole"))
    supervised.train(given)
    return given


def leaves(given):
    """Step, the leaves' places and checksums, and the position of the newest checkpoint."""
    path = max((given.directory / "checkpoints").glob("*.json"))
    found = json.loads(path.read_text())
    return found["step"], found["leaves"], found["metadata"]["position"]


def rows(given):
    with (given.directory / "metrics.csv").open() as file:
        return [
            {k: v for k, v in row.items() if k != "examples_per_second"}
            for row in csv.DictReader(file)
        ]


def test_a_run_leaves_checkpoints_metrics_and_weights(whole):
    assert leaves(whole)[0] == 6
    found = rows(whole)
    assert [int(row["step"]) for row in found] == [1, 2, 3, 4, 5, 6]
    assert [math.isnan(float(row["miou"])) for row in found] == [True, True, False] * 2
    assert float(found[0]["learning_rate"]) == pytest.approx(0.01)
    assert (whole.directory / "report.html").is_file()


def test_the_weights_load_and_give_what_was_validated(whole):
    told = json.loads((whole.directory / "validation.json").read_text())
    weights = ModelConfig(whole.model.name, weights=str(whole.directory / "weights.npz"))
    network = build.network(Config(model=weights))
    frames = labelled_frames(whole.task.validation, 2, size=SIZE)
    confusion = Validation(network, whole.blocks.size)(network.params, frames)
    assert miou(confusion) == told["miou"] and told["frames"] == 2
    assert set(told["class_iou"]) == set(CLASSES)
    # The running average, and not the last step's weights.
    state = TaskLearner(network, whole.task).init(network.params)
    saved, _ = supervised.Checkpointer(whole.directory / "checkpoints").restore(state)
    jax.tree.map(np.testing.assert_array_equal, network.params, saved.average)
    assert any(
        (a != b).any()
        for a, b in zip(
            jax.tree.leaves(saved.params), jax.tree.leaves(network.params["params"]), strict=True
        )
    )


def test_a_run_that_was_interrupted_ends_bit_for_bit_as_one_that_was_not(
    whole, tmp_path, monkeypatch, capsys
):
    given = config(tmp_path, workers=1)
    write = supervised.Logger.write

    def interrupt(log, step, figures):
        write(log, step, figures)
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(supervised.Logger, "write", interrupt)
    with pytest.raises(SystemExit) as stop:
        train.train(given, train.Arguments())
    monkeypatch.undo()
    assert (stop.value.code, leaves(given)[0]) == (130, 3)
    assert not (tmp_path / "weights.npz").exists()
    train.train(given, train.Arguments(resume=True))
    assert "going on after step 3" in capsys.readouterr().out
    assert leaves(given) == leaves(whole)
    assert rows(given) == rows(whole)


def test_the_frames_that_there_are_are_told(whole, tmp_path):
    shutil.copytree(whole.directory, tmp_path / "run")
    supervised.train(config(tmp_path / "run", final_frames=100))
    told = json.loads((tmp_path / "run" / "validation.json").read_text())
    assert told["frames"] == 2  # one of each clip


def test_fresh_removes_the_evaluation_of_what_was_there(whole, tmp_path):
    shutil.copytree(whole.directory, tmp_path / "run")
    about = {"config": {"name": "old"}, "rows": []}
    (tmp_path / "run" / "results.json").write_text(json.dumps(about))
    (tmp_path / "run" / "mine.txt").write_text("mine")
    supervised.train(config(tmp_path / "run"), fresh=True)
    there = {path.name for path in (tmp_path / "run").iterdir()}
    assert "results.json" not in there and there >= {"mine.txt", "report.html"}


def test_a_training_that_diverges_says_what_can_be_done(tmp_path):
    wild = {"optimizer": "sgd", "learning_rate": 1e30, "warm_up": 0}
    with pytest.raises(ValueError, match=r"lower task\.learning_rate, and start over"):
        supervised.train(config(tmp_path, **wild))


def test_other_settings_are_told(whole, tmp_path):
    with pytest.raises(ValueError, match=r"task.steps was 6 and is 9"):
        supervised.train(config(whole.directory, steps=9))
    with pytest.raises(ValueError, match="no checkpoint to go on from"):
        supervised.train(config(tmp_path), resume=True)
    with pytest.raises(ValueError, match="has no clips with labels"):
        supervised.train(config(tmp_path, source="pedestrians"))
    kept = leaves(whole)
    with pytest.raises(ValueError, match="there is no split 'trian'"):
        supervised.train(config(whole.directory, source="street:trian"), fresh=True)
    with pytest.raises(ValueError, match="--fresh starts over and --resume goes on"):
        supervised.train(whole, fresh=True, resume=True)
    assert leaves(whole) == kept
    few = ModelConfig("small", options={"num_classes": 4})
    with pytest.raises(ValueError, match="has 4 classes, and the labels 19"):
        supervised.train(Config(model=few, task=TaskConfig()))


def learner(**fields):
    network = load("small", key=jax.random.key(0))
    made = TaskLearner(network, TaskConfig(**{"steps": 40, "warm_up": 2} | fields))
    return made, made.init(network.params), jax.jit(made.step)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_loss_falls_and_the_average_follows_its_formula(optimizer):
    _, state, step = learner(optimizer=optimizer, ema=0.15, learning_rate=0.02)
    rng = np.random.default_rng(0)
    labels = np.repeat(np.repeat(rng.integers(0, 3, (2, 4, 4), np.uint8), 8, 1), 8, 2)
    frames = np.stack([80 * labels] * 3, axis=-1)
    average, losses = None, []
    for t in range(12):
        state, loss = step(state, frames, labels)
        losses.append(float(loss))
        decay = min(0.15, t / (t + 10))
        now = np.asarray(state.params["stem"]["kernel"], np.float64)
        average = now if average is None else decay * average + (1 - decay) * now
    np.testing.assert_allclose(
        state.average["params"]["stem"]["kernel"], average, rtol=1e-5, atol=1e-7
    )
    assert losses[-1] < 0.6 * losses[0]
    np.testing.assert_allclose(np.sum(state.frequency), 1, rtol=1e-5)
    assert np.all(np.asarray(state.frequency[3:]) == 0)


def test_a_network_of_the_package_takes_a_step():
    options = {"base_width": 4, "decoder_width": 6}
    network = load("swiftnet_rn18", key=jax.random.key(0), **options)
    made = TaskLearner(network, TaskConfig())
    frames, labels = np.zeros((1, 32, 64, 3), np.uint8), np.zeros((1, 32, 64), np.uint8)
    state = made.init(network.params)
    after, loss = jax.eval_shape(made.step, state, frames, labels)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert loss.shape == ()


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]]]))
    labels = jnp.array([[[1, 1]]], jnp.uint8)
    even = jnp.ones(3)
    expected = (math.log(4) + math.log(1 / 0.8)) / 2
    np.testing.assert_allclose(cross_entropy(logits, labels, even), expected, rtol=1e-6)
    weighted = cross_entropy(
        logits, jnp.array([[[0, 1]]], jnp.uint8), jnp.array([3.0, 1.0, 1.0])
    )  # fmt: skip
    np.testing.assert_allclose(weighted, (3 * math.log(2) + math.log(1 / 0.8)) / 4, rtol=1e-6)


def test_every_pixel_of_a_square_has_its_turn():
    labels = np.arange(24, dtype=np.uint8).reshape(1, 4, 6)
    turns = [np.asarray(one_of_each_square(labels, 2, jnp.int32(k))) for k in range(5)]
    np.testing.assert_array_equal(turns[1], labels[:, 0::2, 1::2])
    np.testing.assert_array_equal(turns[2], labels[:, 1::2, 0::2])
    np.testing.assert_array_equal(turns[4], turns[0])
    assert sorted(np.concatenate([turn.ravel() for turn in turns[:4]])) == list(range(24))
    np.testing.assert_array_equal(one_of_each_square(labels, 1, jnp.int32(7)), labels)


def test_an_ignored_pixel_has_no_gradient():
    logits = jax.random.normal(jax.random.key(0), (1, 4, 4, 3))
    labels = np.full((1, 4, 4), IGNORE, np.uint8)
    labels[0, :2] = 1
    loss, gradient = jax.value_and_grad(cross_entropy)(logits, labels, jnp.ones(3))
    assert np.all(gradient[0, 2:] == 0)
    assert np.all(gradient[0, :2] != 0)
    assert loss > 0
    loss, gradient = jax.value_and_grad(cross_entropy)(
        logits, np.full_like(labels, IGNORE), jnp.ones(3)
    )
    assert loss == 0
    assert np.all(gradient == 0)


@pytest.mark.parametrize(("schedule", "middle"), [("cosine", 0.5), ("poly", 0.5**0.9)])
def test_the_learning_rate_by_hand(schedule, middle):
    rate = learning_rate(TaskConfig(steps=110, warm_up=10, learning_rate=0.2, schedule=schedule))
    found = [float(rate(step)) for step in (0, 5, 10, 60, 110)]
    # A tenth of it at first, then half of the other nine tenths more.
    np.testing.assert_allclose(found, [0.02, 0.11, 0.2, 0.2 * middle, 0], rtol=1e-5, atol=1e-9)


def test_parameters_stay_float32_where_the_network_computes_in_bfloat16():
    network = load("small", key=jax.random.key(0), dtype=jnp.bfloat16)
    made = TaskLearner(network, TaskConfig())
    frames = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    labels = jax.ShapeDtypeStruct((1, 32, 32), jnp.uint8)
    state, loss = jax.eval_shape(made.step, made.init(network.params), frames, labels)
    kinds = {leaf.dtype for leaf in jax.tree.leaves((state.params, state.average, loss))}
    assert kinds == {jnp.dtype(jnp.float32)}


def test_float16_weights_come_back_as_float32(tmp_path):
    given = {"params": {"a": np.array([1.0, 0.1], np.float32)}}
    write_variables(tmp_path / "w.npz", given, dtype="float16")
    found = read_variables(tmp_path / "w.npz")["params"]["a"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, given["params"]["a"].astype(np.float16))
    with pytest.raises(ValueError, match="params/a has values that are not finite in float16"):
        write_variables(tmp_path / "w.npz", {"params": {"a": np.array([1e6])}}, dtype="float16")


def test_the_table_names_every_class_and_leaves_out_what_was_nowhere():
    ious = class_iou(np.diag([*range(18), 0]))
    lines = class_table(ious).splitlines()
    assert len(lines) == 19
    assert lines[1].split() == ["sidewalk", "100.0%"]
    assert lines[-1].split() == ["bicycle", "-"]


def test_optax_is_given_kernels_alone_to_decay():
    made, state, _ = learner(weight_decay=1.0)
    zero = jax.tree.map(jnp.zeros_like, state.params)
    change, _ = made._optimizer.update(zero, state.optimizer, state.params)
    assert isinstance(made._optimizer, optax.GradientTransformation)
    assert np.any(change["stem"]["kernel"])
    assert not np.any(change["norm"]["scale"])


def test_weights_that_are_not_there_are_named(tmp_path):
    missing = tmp_path / "missing.npz"
    model = ModelConfig("small", weights=str(missing))
    with pytest.raises(settings.ConfigError, match=f"model.weights {missing}: No such file"):
        build.network(Config(model=model))
