"""The documentation: its code runs, its commands exist, and every public name has its place."""

import importlib
import importlib.util
import inspect
import re
import subprocess
import sys

import jax
import pytest

from bc_jax import commands

PAGES = (
    *("quickstart", "concepts", "own-network", "own-video", "own-weights", "streams", "policy"),
    *("derivation", "index", "limits", "comparison", "api", "paper"),
)
PACKAGES = (
    "bc_jax",
    "bc_jax.sparse",
    "bc_jax.policy",
    "bc_jax.models",
    "bc_jax.data",
    "bc_jax.supervised",
    "bc_jax.view",
)


def text_of(root, page):
    return (root / "docs" / f"{page}.md").read_text(encoding="utf-8")


def with_code(root):
    return [
        path for path in sorted((root / "docs").glob("*.md")) if "```python" in path.read_text()
    ]


def test_the_pages_code_runs(root):
    ran = 0
    for path in with_code(root):
        blocks = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
        code = "\n".join(blocks)
        with jax.numpy_rank_promotion("allow"):  # as a reader has it
            exec(compile(code, str(path), "exec"), {"__name__": "docs"})
        ran += len(blocks)
    assert ran >= 8


def test_the_commands_of_the_pages_exist(root):
    for path in [root / "README.md", *(root / "docs").glob("*.md")]:
        for name in re.findall(r"^bc-jax ([\w-]+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert name in commands.COMMANDS, f"{path.name}: bc-jax {name}"
        for script in re.findall(r"examples/(\w+\.py)", path.read_text(encoding="utf-8")):
            assert (root / "examples" / script).is_file(), f"{path.name}: examples/{script}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_stands_in_the_reference(root, package):
    module, page = importlib.import_module(package), text_of(root, "api")
    for name in module.__all__:
        if inspect.ismodule(getattr(module, name)) or name == "__version__":
            continue
        place = rf"^::: {re.escape(package)}\.{name}$|\[`{re.escape(package)}\.{name}`\]"
        assert re.search(place, page, re.MULTILINE), f"docs/api.md has no {package}.{name}"


def test_the_reference_names_only_what_is_there(root):
    for name in re.findall(r"^::: (\S+)$", text_of(root, "api"), re.MULTILINE):
        module, attribute = name.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), attribute), name


def test_each_equation_has_its_row(root):
    rows = re.findall(r"^\| (\d+) \|", text_of(root, "derivation"), re.MULTILINE)
    assert rows == [str(n) for n in range(1, 12)]


def test_pages_and_figures_are_there(root):
    for page in PAGES:
        for figure in re.findall(r"\]\((figures/[\w.]+)\)", text_of(root, page)):
            assert (root / "docs" / figure).is_file(), f"{page}: {figure}"
    settings = (root / "mkdocs.yml").read_text()
    assert all(f"{page}.md" in settings for page in PAGES)


def test_the_site_builds(root, tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install -e '.[docs]'")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    run = subprocess.run(build, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    api = (tmp_path / "api" / "index.html").read_text()
    assert 'id="bc_jax.policy.reinforce_loss"' in api
    assert "Fraction of the blocks to execute" in api  # a comment beside a field
    assert (
        'href="../api/#bc_jax.policy.reinforce_loss"'
        in (tmp_path / "derivation" / "index.html").read_text()
    )
