"""Settings: what is refused and how it is said, and the ways in: file, JSON, command line."""

import dataclasses
import json
import re

import pytest

from bc_jax.config import (
    BlockConfig,
    Config,
    ConfigError,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    PolicyConfig,
    TaskConfig,
    TrainConfig,
    from_command_line,
    from_json,
    load,
    to_json,
)

OTHER_THAN_DEFAULT = Config(
    name="other",
    seed=7,
    model=ModelConfig("swiftnet_rn18", options={"num_classes": 19}, dtype="bfloat16"),
    blocks=BlockConfig(size=(64, 32), capacities=4),
    policy=PolicyConfig.paper(target=0.4),
    data=DataConfig(source="clip.mp4", size=(288, 384), start=3, frames=10, passes=2, streams=2),
    train=TrainConfig(train_interval=4, checkpoint_every=5, keep=1, log_every=2, directory="x"),
    evaluate=EvaluateConfig(policies=("random", "paper"), target=0.5, frames=8, picture=None),
    task=TaskConfig(source="cityscapes:data/train", steps=20, warm_up=2, crop=(64, 32), ema=0.0),
)


@pytest.fixture
def configs(tmp_path):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "quick.py").write_text(
        "from bc_jax.config import Config, PolicyConfig\n"
        "def get_config():\n"
        "    return Config(name='quick', policy=PolicyConfig(target=0.25))\n"
    )
    (folder / "empty.py").write_text("")
    (folder / "wrong.py").write_text("def get_config():\n    return {'name': 'wrong'}\n")
    (folder / "invalid.py").write_text(
        "from bc_jax.config import *\ndef get_config():\n    return PolicyConfig(target=2.0)\n"
    )
    return folder


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (Config, {"seed": -1}, "seed is -1, and 0 is the least"),
        (Config, {"seed": 2**32}, "seed is 4294967296, and 4294967295 is the most"),
        (Config, {"seed": True}, "seed is True, not int"),
        (Config, {"name": "a/b"}, "name 'a/b' cannot be a folder's"),
        (Config, {"name": ".."}, "cannot be a folder's"),
        (Config, {"model": 3}, "model is 3, not the fields of ModelConfig"),
        (ModelConfig, {"name": "resnet"}, "model.name is 'resnet'; it can be .*espnet_cityscapes"),
        (ModelConfig, {"dtype": "int8"}, "model.dtype is 'int8'; it can be 'float32', 'bfloat16'"),
        (ModelConfig, {"options": {"dtype": "float16"}}, "that is model.dtype"),
        (ModelConfig, {"options": {"width": None}}, "model.options.width is None, not int"),
        (ModelConfig, {"options": {"num_classes": 0}}, "options.num_classes is 0, and 2 is the"),
        (ModelConfig, {"options": {"num_classes": 1}}, "options.num_classes is 1, and 2 is the"),
        (ModelConfig, {"options": {"base_width": -4}}, "options.base_width is -4, and 1 is the"),
        (BlockConfig, {"size": (128,)}, r"blocks.size is \(128,\), not tuple\[int, int\]"),
        (BlockConfig, {"size": (128.0, 128)}, r"blocks.size\[0\] is 128.0, not int"),
        (BlockConfig, {"size": (4, 128)}, "8 pixels is the least"),
        (BlockConfig, {"size": (64, 10**5)}, r"blocks.size \(64, 100000\) has a side above 16384"),
        (BlockConfig, {"capacities": 0}, "blocks.capacities is 0, and 1 is the least"),
        (DataConfig, {"size": (0, 3)}, "a side below 1"),
        (DataConfig, {"size": (10**6, 64)}, "a side above 16384 pixels, the most"),
        (DataConfig, {"source": ""}, "data.source is empty"),
        (DataConfig, {"frames": 0}, "data.frames is 0, and 1 is the least"),
        (DataConfig, {"frames": "all"}, "data.frames is 'all', not int"),
        (DataConfig, {"start": -1}, "data.start is -1, and 0 is the least"),
        (TrainConfig, {"keep": 0}, "train.keep is 0, and 1 is the least"),
        (TrainConfig, {"train_interval": 0}, "train.train_interval is 0, and 1 is the least"),
        *(
            (PolicyConfig, {name: value}, f"policy.{name} is {value}, which is not finite")
            for name in ("learning_rate", "gamma", "weight_decay", "prior_learning_rate", "target")
            for value in (float("inf"), float("nan"))
        ),
        (EvaluateConfig, {"policies": ()}, "evaluate.policies names none; give one or more of all"),
        (EvaluateConfig, {"policies": ("best",)}, r"policies\[0\] is 'best'; it can be 'all'"),
        (EvaluateConfig, {"policies": ("all", "all")}, "names one twice: all all"),
        (EvaluateConfig, {"target": 0.0}, r"evaluate.target 0.0 is not in \(0, 1\]"),
        (EvaluateConfig, {"target": float("nan")}, "evaluate.target is nan, which is not finite"),
        (EvaluateConfig, {"targets": (0.3, 1.5)}, r"evaluate.targets 1.5 is not in \(0, 1\]"),
        (EvaluateConfig, {"targets": (0.3, 0.3)}, "evaluate.targets has one twice"),
        (EvaluateConfig, {"target": 0.3, "targets": (0.5,)}, "are both given: give one"),
        (EvaluateConfig, {"source": ""}, "evaluate.source is empty"),
        (EvaluateConfig, {"video_fps": 0.0}, "evaluate.video_fps 0.0 is not above 0"),
        (EvaluateConfig, {"video_fps": 1e9}, "1000000000.0 is no frame rate; it can be 0.001 to"),
        (TaskConfig, {"steps": 0}, "task.steps is 0, and 1 is the least"),
        (TaskConfig, {"workers": -1}, "task.workers is -1, and 0 is the least"),
        (TaskConfig, {"crop": (0, 8)}, r"task.crop \(0, 8\) has a side below 1"),
        (TaskConfig, {"size": (8, 10**6)}, "task.size .* a side above 16384"),
        (TaskConfig, {"crop": (9, 8), "loss_stride": 2}, "side that task.loss_stride 2 does not"),
        (TaskConfig, {"scale": (2.0, 1.0)}, r"task.scale \(2.0, 1.0\) is not the least"),
        (TaskConfig, {"learning_rate": 0.0}, "task.learning_rate 0.0 is not above 0"),
        (TaskConfig, {"steps": 9, "warm_up": 9}, "task.warm_up 9 is not below task.steps 9"),
        (TaskConfig, {"ema": 1.0}, r"task.ema 1.0 is not in \[0, 1\)"),
        (TaskConfig, {"class_balance": 1.5}, r"task.class_balance 1.5 is not in \[0, 1\]"),
        (TaskConfig, {"schedule": "step"}, "task.schedule is 'step'; it can be 'cosine', 'poly'"),
        (Config, {"task": TaskConfig(validate_every=15)}, "15 is no multiple of train.log_every"),
    ],
)
def test_what_cannot_be_is_refused_by_name(cls, fields, message):
    with pytest.raises(ConfigError, match=message):
        cls(**fields)


def test_json_round_trip():
    for config in (Config(), OTHER_THAN_DEFAULT):
        assert from_json(to_json(config)) == config
    assert from_json(to_json(PolicyConfig.paper()), PolicyConfig) == PolicyConfig.paper()


def test_every_field_of_the_round_trip_differs_from_its_default():
    # Else the test above would not see a field that is lost on the way.
    for field in dataclasses.fields(Config):
        assert getattr(OTHER_THAN_DEFAULT, field.name) != getattr(Config(), field.name)


def test_json_without_a_field_takes_the_default():
    data = json.loads(to_json(OTHER_THAN_DEFAULT))
    del data["policy"]["target"], data["train"]
    config = from_json(json.dumps(data))
    assert config.policy.target == PolicyConfig().target
    assert config.train == TrainConfig()
    assert config.blocks == OTHER_THAN_DEFAULT.blocks


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", r"config is \[\], not the fields of Config"),
        (
            '{"policy": {"tarqet": 0.3}}',
            "config.policy has no field 'tarqet'; it has objective, target, .*you mean 'target'",
        ),
        ('{"policy": {"target": "low"}}', "config.policy.target is 'low', not float"),
        ('{"policy": {"target": 3}}', "policy.target is 3"),
        ('{"train": {"keep": 2.5}}', "config.train.keep is 2.5, not int"),
        ('{"data": {"size": [1, 2, 3]}}', r"config.data.size is \[1, 2, 3\]"),
        ('{"seed": null}', "config.seed is None, not int"),
    ],
)
def test_json_that_cannot_be_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        from_json(text)


def test_a_file_is_loaded(configs):
    config = load(configs / "quick.py")
    assert (config.name, config.policy.target) == ("quick", 0.25)
    assert config.directory.parts == ("runs", "quick")


def test_every_config_that_comes_with_the_repository_loads(root):
    paths = sorted((root / "configs").glob("*.py"))
    assert len(paths) > 5
    assert len({load(path).name for path in paths}) == len(paths)


@pytest.mark.parametrize("network", ["swiftnet_rn50", "deeplabv3plus_rn101"])
def test_the_papers_protocol(root, network, monkeypatch):
    monkeypatch.setenv("CITYSCAPES_DATASET", "there")
    config = load(root / "configs" / f"cityscapes_{network}.py")
    assert config.model.name == network
    assert (config.blocks.size, config.data.size) == ((128, 128), None)
    assert config.policy == PolicyConfig.paper(target=0.5)
    assert config.train.train_interval == 3
    assert (config.data.source, config.data.frames) == ("cityscapes:there/train", 500 * 20)
    assert (config.evaluate.source, config.evaluate.frames) == ("cityscapes:there/val", None)
    assert {"random", "static", "learned"} <= set(config.evaluate.policies)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "quack.py",
            "no config .*quack.py; .* has empty.py, invalid.py, quick.py, wrong.py",
        ),
        ("empty.py", r"has no function get_config\(\)"),
        ("wrong.py", r"returned dict, not bc_jax.config.Config"),
        ("notes.txt", "there is no config"),
        ("../nowhere/a.py", "has none at all"),
        (".", "configs is a folder, not a config; .*configs has empty.py, invalid.py, quick.py"),
    ],
)
def test_a_file_that_is_no_config_is_refused(configs, name, message):
    with pytest.raises(ConfigError, match=message):
        load(configs / name)


@dataclasses.dataclass(frozen=True)
class Script:
    # What to go on from.
    checkpoint: str | None = None


def test_the_command_line_overrides_any_field(configs):
    config, script = from_command_line(
        "A script.",
        [
            f"--config={configs / 'quick.py'}",
            *("--policy.target", "0.5", "--blocks.size", "64", "32", "--data.size", "None"),
            *("--evaluate.policies", "all", "oracle", "--policy.no_prior"),
            *("--model.options", "num_classes", "19", "--checkpoint", "there"),
        ],
        extra=Script,
    )
    expected = Config(
        name="quick",
        model=ModelConfig(options={"num_classes": 19}),
        blocks=BlockConfig(size=(64, 32)),
        policy=PolicyConfig(target=0.5, prior=False),
        evaluate=EvaluateConfig(policies=("all", "oracle")),
    )
    assert config == expected
    assert script == Script(checkpoint="there")


def test_the_command_line_overrides_a_task_where_the_file_has_one(configs, capsys):
    (configs / "task.py").write_text(
        "from bc_jax.config import Config, TaskConfig\n"
        "def get_config():\n"
        "    return Config(task=TaskConfig(steps=500))\n"
    )
    arguments = ["--task.crop", "32", "64", "--task.no_flip"]
    found, _ = from_command_line("A script.", ["--config", str(configs / "task.py"), *arguments])
    assert found == Config(task=TaskConfig(steps=500, crop=(32, 64), flip=False))
    with pytest.raises(SystemExit):
        from_command_line("A script.", ["--config", str(configs / "quick.py"), *arguments])
    assert "Unrecognized options: --task.crop" in capsys.readouterr().err


def test_the_command_line_without_overrides_is_the_file(configs):
    argv = ["--config", str(configs / "quick.py")]
    assert from_command_line("A script.", argv) == (load(configs / "quick.py"), None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy.tarqet", "1"], r"Unrecognized options: --policy.tarqet.*mean --policy.target"),
        (["--policy.target", "low"], "--policy.target: could not convert string to float: 'low'"),
        (["--policy.target", "3"], "policy.target is 3"),
        (["--policy.gain", "entropy"], "invalid choice 'entropy' .*'kl', 'change', 'tv'"),
        (["--train.keep", "0"], "train.keep is 0, and 1 is the least"),
        (["--seed", "-1"], "seed is -1, and 0 is the least"),
        (["--seed", "9" * 20], "seed is 9+, and 4294967295 is the most"),
        (["--name", ""], "name '' cannot be a folder's"),
        (["--name", "a/b"], "name 'a/b' cannot be a folder's"),
        (["--policy.learning_rate", "inf"], "policy.learning_rate is inf, which is not finite"),
        (["--evaluate.policies"], "evaluate.policies names none"),
        (["--evaluate.polices", "all"], r"mean --evaluate.policies(, --[\w.]+)*\?$"),
        (["--blocks.size", "64"], "'--blocks.size'. Expected 2 values"),
        (["--checkpoint", "there"], "Unrecognized options: --checkpoint"),
        (["stray"], "Unrecognized options: stray"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(configs, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        from_command_line("A script.", ["--config", str(configs / "quick.py"), *arguments])
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert re.search(message, said.err), said.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "which settings? --config FILE; there are configs/"),
        ("quack.py", "there is no config"),
        ("invalid.py", "policy.target is 2.0"),
    ],
)
def test_a_wrong_config_is_one_line_and_exit_code_2(configs, capsys, monkeypatch, name, message):
    monkeypatch.chdir(configs.parent)
    with pytest.raises(SystemExit) as stop:
        from_command_line("A script.", ["--config", f"configs/{name}"] if name else [])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.count("\n") == 1
    assert message in said


def test_help_lists_every_field_with_the_files_values(configs, capsys):
    with pytest.raises(SystemExit) as stop:
        from_command_line("A script.", ["--config", str(configs / "quick.py"), "--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0
    assert "A script." in said
    for part in dataclasses.fields(Config):
        if part.name == "task":  # which this file has not
            assert "--task" not in said
        elif dataclasses.is_dataclass(part.type):
            for field in dataclasses.fields(part.type):
                assert f"--{part.name}.{field.name}" in said
        else:
            assert f"--{part.name}" in said
    assert "(default: 0.25)" in said


@pytest.mark.parametrize("name", ["paper", "constrained", "light"])
def test_a_named_policy_says_which_setting_it_has_not(name):
    made = getattr(PolicyConfig, name)
    assert made(target=0.3).target == 0.3
    with pytest.raises(
        ValueError,
        match=f"PolicyConfig.{name} has no field 'targe'; it has objective, target, .*'target'",
    ):
        made(targe=0.3)
