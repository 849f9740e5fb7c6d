"""Conventions of the repository: what stands in its files, and what importing it costs."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys

import pytest

import bc_jax

# Put together from parts, so that this file does not hold what it forbids.
FORBIDDEN = {
    "a machine's folders": r"(?<![\w.~-])/("
    + "|".join(("home", "Users", "work", "root"))
    + r")/\w",
    "a package registry": r"(" + "|".join(("pypi", "npmjs", "anaconda")) + r")\.(org|com)",
    "a package index for pip": "--("
    + "|".join(("extra-index", "index", "find-links"))
    + r")[-=\w]*",
    "a conflict": "^(" + "|".join(sign * 7 for sign in "<>") + ") ",
}


def tracked(root):
    """The repository's files, new ones included, ignored ones not."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=root,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        ignored = re.compile(r"(^|/)(\.|runs/|build/|dist/|__pycache__/|[^/]*\.egg-info/)")
        paths = (path.relative_to(root).as_posix() for path in root.rglob("*"))
        listed = "\0".join(path for path in paths if not ignored.search(path))
    return [path for name in listed.split("\0") if name and (path := root / name).is_file()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names_what_belongs_to_one_machine(root, what):
    found = []
    for path in tracked(root):
        content = path.read_bytes()
        if b"\0" in content:
            continue
        text = content.decode("utf-8")
        for match in re.finditer(FORBIDDEN[what], text, re.MULTILINE):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{path.relative_to(root)}:{line}: {match[0]}")
    assert not found, f"{what}:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a machine's folders", "data = '/" + "home/someone/data'"),
        ("a package registry", "https://" + "pypi" + ".org/project"),
        ("a package index for pip", "pip install --" + "index-url=x"),
        ("a conflict", "<" * 7 + " HEAD"),
    ],
)
def test_the_patterns_find_what_they_are_for(what, line):
    assert re.search(FORBIDDEN[what], line)


def test_files_are_short_and_their_names_say_something(root):
    sources = list((root / "bc_jax").rglob("*.py"))
    assert len(sources) > 10
    long = [path for path in sources if path.read_text().count("\n") > 400]
    assert not long
    assert not {"utils.py", "helpers.py", "common.py", "misc.py"} & {path.name for path in sources}


def test_sources_hold_no_unfinished_work(root):
    marks = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
    found = [
        path for path in tracked(root) if path.suffix == ".py" and marks.search(path.read_text())
    ]
    assert not found


def test_messages_name_packages_that_pip_finds(root):
    # bc_jax is installed from its clone: "pip install bc_jax[extra]" asks a registry.
    asks = re.compile(r"pip install '?bc_jax")
    for path in [*(root / "bc_jax").rglob("*.py"), *(root / "examples").glob("*.py")]:
        assert not asks.search(path.read_text(encoding="utf-8")), path


def modules():
    """Every module of the package."""
    yield bc_jax
    for found in pkgutil.walk_packages(bc_jax.__path__, "bc_jax."):
        yield importlib.import_module(found.name)


def test_every_public_name_has_a_docstring():
    bare = []
    for module in modules():
        if not (module.__doc__ or "").strip():
            bare.append(module.__name__)
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            if (
                name.startswith("_")
                or not own
                or not (inspect.isclass(value) or inspect.isfunction(value))
            ):
                continue
            # A dataclass without one gets its signature as a docstring.
            doc = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
            if not doc or doc.startswith(f"{name}("):
                bare.append(f"{module.__name__}.{name}")
            if inspect.isclass(value):
                bare += [f"{module.__name__}.{name}.{m}" for m in bare_methods(value)]
    assert not bare, bare


def bare_methods(cls):
    for name, value in vars(cls).items():
        function = value.fget if isinstance(value, property) else value
        if name.startswith("_") or name in ("replace", "setup") or not inspect.isfunction(function):
            continue
        if not inspect.getdoc(getattr(cls, name)):
            yield name


def test_what_a_module_presents_is_there():
    for module in modules():
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"{module.__name__}.__all__ names {name}"


def test_importing_the_package_imports_only_what_it_needs():
    heavy = {
        *("av", "PIL", "matplotlib", "orbax", "tyro", "tensorflow_datasets", "tensorflow", "torch"),
        *("equinox", "grain", "array_record"),
    }
    code = "import sys, bc_jax; print(*{name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(run.stdout.split())
    assert "jax" in imported
    assert not imported & heavy


# Which packages of bc_jax a package of it must not import (its own aside).
BELOW = {
    "lowering": {"sparse", "policy", "models", "data", "view", "runner", "config"},
    "sparse": {"policy", "models", "data", "view", "runner", "config"},
    "policy": {"sparse", "models", "data", "view", "runner", "config"},
    "models": {"sparse", "policy", "data", "view", "runner", "config", "convert"},
    "data": {"sparse", "policy", "models", "view", "runner"},
}


@pytest.mark.parametrize("package", BELOW)
def test_imports_run_downwards(root, package):
    wrong = []
    for path in (root / "bc_jax" / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            wrong += [
                f"{path.relative_to(root)}: {name}"
                for name in names
                if name.startswith("bc_jax.") and name.split(".")[1] in BELOW[package]
            ]
    assert not wrong, wrong


def test_the_readmes_python_runs(root):
    code = "\n".join(
        re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    )
    assert "bc_jax.blockcopy" in code
    exec(compile(code, "README.md", "exec"), {})


def test_every_dependency_has_its_pinned_version(root):
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(each for name in extras.keys() - {"cuda"} for each in extras[name]),
    ]
    pinned = re.findall(r"^([\w.-]+)==\S+$", (root / "constraints.txt").read_text(), re.MULTILINE)
    names = {re.match(r"[\w.-]+", requirement)[0] for requirement in wanted} - {"bc_jax"}
    normal = {re.sub(r"[-_.]+", "-", name).lower() for name in pinned}
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in names} <= normal
