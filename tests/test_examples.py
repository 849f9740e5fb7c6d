"""Each example runs, at sizes that take seconds."""

import importlib.util

import jax
import numpy as np
import pytest
import zoo
from PIL import Image

SMALL = {"size": (64, 96), "block": 32}


@pytest.fixture(scope="module")
def network():
    return zoo.tiny_network()


def example(root, name):
    spec = importlib.util.spec_from_file_location(name, root / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NEEDS = {
    "accelerate_flax": "flax",
    "accelerate_equinox": "equinox",
    "accelerate_keras": "keras",
    "accelerate_hugging_face": "transformers.modeling_flax_utils",  # up to version 4
    "accelerate_pytorch": "torchax",
}


@pytest.mark.parametrize("name", NEEDS)
def test_a_network_of_ones_own(root, name, capsys):
    # torchax 0.0.13 has no ImportError where PyTorch is too new for it.
    pytest.importorskip(NEEDS[name], exc_type=(ImportError, AttributeError))
    module = example(root, name)
    with jax.numpy_rank_promotion("allow"):  # torchax has other ways
        assert module.main(**SMALL, frames=1) == 0  # everything executed: the dense network
        assert 0 <= module.main(**SMALL, frames=3) < 0.5
    assert "pixels of another class" in capsys.readouterr().out


def test_the_policy_in_a_scan(root, network, capsys):
    executed = example(root, "policy_in_scan").main(network, **SMALL, frames=7, target=0.5)
    assert executed.shape == (6,)
    np.testing.assert_allclose(executed, 0.5)
    assert "2 updates in 7 frames" in capsys.readouterr().out


def test_many_cameras(root, network, capsys):
    shares = example(root, "many_cameras").main(network, **SMALL, frames=4, cameras=3)
    assert shares.shape == (3,)
    assert (shares < 1).any()
    assert "camera 2: executed" in capsys.readouterr().out


def test_a_detector(root, tmp_path, capsys):
    detect, weights = example(root, "detect"), tmp_path / "detector.npz"
    options = {"size": (64, 128), "block": 32, "clips": 1, "frames": 4, "weights": weights}
    assert detect.main(**options, steps=2, batch=1, training_clips=1, cameras=()) == {}
    assert "step 2 of 2, loss" in capsys.readouterr().out
    results = detect.main(**options, cameras=("slow",))  # of the weights that were kept
    assert "step" not in capsys.readouterr().out
    assert list(results) == ["slow"]
    assert list(results["slow"])[-1] == "learned, by boxes"
    # What two steps have taught is sure of nothing, which nothing can be held against.
    assert all(np.isnan(precision) for precision in results["slow"].values())


def test_a_detectors_targets_are_what_it_decodes(root):
    detect = example(root, "detect")
    frame = detect.Clip(detect.StreetConfig(size=(256, 512), frames=1), "val", 0).frame(0)
    _, centres, sizes, counts = detect.targets(frame)
    logits = np.log(np.clip(centres, 1e-6, 1 - 1e-6) / (1 - np.clip(centres, 1e-6, 1 - 1e-6)))
    boxes, scores, kinds = (
        np.asarray(x[0]) for x in detect.decode(np.concatenate([logits, sizes], -1)[None])
    )
    wanted = detect.things(frame)
    assert 2 < len(wanted) <= detect.MOST
    assert counts.sum() == (scores > 0.99).sum() > 2
    for box, kind in zip(boxes[scores > 0.99], kinds[scores > 0.99], strict=True):
        off = [
            np.abs(box - (w.left, w.top, w.right, w.bottom)).max()
            for w in wanted
            if detect.KINDS[w.label] == kind
        ]
        assert min(off) <= detect.STRIDE


def test_live(root, network, capsys, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    options = ["--source", "pedestrians", "--size", "64", "96", "--block", "32"]
    live = example(root, "live")
    assert live.main([*options, "--frames", "2"], network) == 2
    assert "frame 2: " in capsys.readouterr().out
    assert live.main([*options, "--frames", "2", "--display"], network) == 2
    assert "▀" in capsys.readouterr().out


def test_live_ends_where_a_video_breaks_off(root, network, tmp_path):
    for number in range(2):
        Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    live = example(root, "live")
    with pytest.warns(UserWarning, match=r"2\.png cannot be read"):
        assert live.main(["--source", str(tmp_path), "--block", "32"], network) == 2


def test_every_example_is_tested(root):
    names = {path.stem for path in (root / "examples").glob("*.py")}
    with open(__file__) as file:
        text = file.read()
    assert names and all(f'"{name}"' in text for name in names)
    assert np.all([(root / "examples" / f"{name}.py").read_text()[:3] == '"""' for name in names])
