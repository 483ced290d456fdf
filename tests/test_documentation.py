"""The documentation says what is so: links, commands, flags, paths, examples, and the site itself."""

import ast
import dataclasses
import html
import importlib
import importlib.util
import json
import math
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from data_generation.populations import simulated_colloids
from data_generation.scripts import command_line, joining
from data_generation.scripts.command_line import run_script, script_module, settings_from_flags
from diffusions import late_imports

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGES = ("diffusions", "jkonet_star", "data_generation", "checkpoints", "experiments")
GENERATED = (DOCS / "_build", DOCS / "reference" / "modules")
PAGES = [
    ROOT / "README.md",
    ROOT / "BUILD.md",
    ROOT / "benchmarks" / "README.md",
    *(
        page
        for page in sorted(DOCS.rglob("*.md"))
        if not any(page.is_relative_to(folder) for folder in GENERATED)
    ),
]
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")

each_page = pytest.mark.parametrize(
    "page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES]
)


def fences(text):
    """(language, content) of every fenced block, and the text without them."""
    pattern = r"^(```+|:::+)([^\n]*)\n(.*?)^\1[ \t]*$"
    blocks = [(m[1].strip(), m[2]) for m in re.findall(pattern, text, flags=re.S | re.M)]
    return blocks, re.sub(pattern, "", text, flags=re.S | re.M)


def code_spans(prose):
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]


def command_lines(text):
    """Commands in indented blocks, shell fences and code spans, continuations joined."""
    blocks, prose = fences(text)
    lines = [content for language, content in blocks if language in ("", "bash", "text")]
    lines += re.findall(r"^ {4,}(\S.*)$", re.sub(r"\\\n\s*", "", prose), flags=re.M)
    lines += code_spans(prose)
    found = []
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        for part in re.split(r"&&|;", line.strip()):
            words = re.sub(r"\s#\s.*", "", part).strip()
            if re.match(r"(python (-m|benchmarks/)|data_generation\s--|make\s)", words):
                found.append(words)
    return found


def script_of(command):
    """Module with the flags of a script, and the arguments."""
    words = [w for w in shlex.split(command) if not w.startswith("$")]
    if words[0] == "data_generation":
        return "data_generation.__main__", words[1:]
    if words[1] == "-m":
        module = words[2]
        return (f"{module}.__main__" if module == "data_generation" else module), words[3:]
    return None, words


def problems_of(command):
    """What is wrong with a command, without running it."""
    module, words = script_of(command)
    if words and words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        known = re.findall(r"^([a-z-]+):", makefile, flags=re.M)
        known += [f"{name}=" for name in re.findall(r"\b[A-Z]+\b", makefile)]
        named = [word.partition("=")[0] + "=" * ("=" in word) for word in words[1:]]
        return [f"no target {word}" for word in named if word not in known]
    if module is None:
        return problems_of_benchmark(ROOT / words[1], words[2:])
    if module.partition(".")[0] not in PACKAGES:
        return []
    if importlib.util.find_spec(module) is None:
        return [f"no module {module}"]
    script = script_module(module)
    arguments = [a for a in words if not PLACEHOLDER.fullmatch(a)]
    texts = [a for a in arguments if not is_placeholder_for_a_number(script.FLAGS, a)]
    errors = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joining, "join", lambda settings: None)  # nobody comes
        patch.setattr(command_line, "check_inputs", lambda settings: None)  # nothing is there
        if run_script(lambda: errors.extend(refusals(script)), script.FLAGS, argv=texts) != 0:
            errors.append("its flags are not understood")
    values = [a.partition("=")[2] for a in arguments]
    placeholders = [v for v in values if PLACEHOLDER.fullmatch(v)]
    return [e for e in errors if not any(repr(p) in e for p in placeholders)]


def is_placeholder_for_a_number(flags, argument):
    name, _, value = argument.partition("=")
    name = name.lstrip("-").replace("-", "_")
    if name not in flags or not PLACEHOLDER.fullmatch(value):
        return False
    try:
        flags[name].parser.parse(value)
    except ValueError:
        return True
    return False


def refusals(script):
    """What the settings of a script say of its parsed flags."""
    found = []
    for kind in vars(script).values():
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            continue
        if all(field.name in script.FLAGS for field in dataclasses.fields(kind)):
            try:
                settings_from_flags(kind, script.FLAGS)
            except ValueError as error:
                found.append(str(error))
    return found


def problems_of_benchmark(file, arguments):
    if not file.is_file():
        return [f"no file {file.name}"]
    text = file.read_text() + (ROOT / "benchmarks" / "measurement.py").read_text()
    flags = [argument.partition("=")[0] for argument in arguments]
    return [f"no flag {f}" for f in flags if f.startswith("--") and f'"{f}"' not in text]


PUBLIC = {
    f"{module}.{name}": getattr(importlib.import_module(module), name)
    for package in ("jkonet_star", "diffusions", "data_generation", "checkpoints")
    for name, module in late_imports.public_names(package).items()
}


def test_every_public_name_is_listed_by_topic():
    page = (DOCS / "reference" / "api.md").read_text()
    listed = re.findall(r"^   ~([\w.]+)$", page, flags=re.M)
    assert len(listed) == len(set(listed))
    # A dictionary has no docstring of its own: it is in the text.
    assert sorted(PUBLIC) == sorted([*listed, "jkonet_star.solvers.registry.SOLVERS"])
    assert "`SOLVERS`" in page


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - {"jkonet_star.solvers.registry.SOLVERS"}))
def test_the_line_of_a_public_name_speaks_for_itself(name):
    """It is read beside others in that list, where "equation (1)" alone says nothing."""
    line = PUBLIC[name].__doc__.splitlines()[0]
    # What dataclasses say where there is no docstring.
    assert not line.startswith(f"{name.rpartition('.')[2]}(")
    assert not re.match(r"(The )?([Ee]quations?|[Ll]aw of equation|Functions of equation) \(", line)
    # The list ends a line with the first sentence.
    assert not re.search(r" \.\.|\.\.\. ", line)


@each_page
def test_every_link_and_image_is_there(page):
    _, prose = fences(page.read_text())
    prose = re.sub(r"`[^`]*`", "", prose)
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if notebook := re.fullmatch(r"https://colab\..*/blob/main/(.*)", target):
            target = os.path.relpath(ROOT / notebook[1], page.parent)
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            missing.append(target)
    assert missing == []


def anchors(page):
    """Of the headings, as Sphinx and the hosts of repositories make them, and explicit ones."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {*slugs, *re.findall(r"^\((\S+)\)=$", text, flags=re.M)}


@each_page
def test_every_path_that_is_named_is_there(page):
    _, prose = fences(page.read_text())
    folders = "|".join((*PACKAGES, "benchmarks", "notebooks", "tests", "docs"))
    pattern = re.compile(rf"(?:{folders})/[\w./-]*\.(?:py|md|ipynb|yaml|png)")
    named = [span for span in code_spans(prose) if pattern.fullmatch(span)]
    named = [path for path in named if "NAME" not in path]
    assert [path for path in named if not (ROOT / path).exists()] == []


@each_page
def test_every_command_is_understood(page, capsys):
    wrong = {}
    for command in command_lines(page.read_text()):
        if problems := problems_of(command):
            wrong[command] = [*problems, capsys.readouterr().err.strip()]
    assert wrong == {}


def test_every_grid_of_a_sweep_is_understood(tmp_path):
    from experiments import sweep
    from experiments.sweeps.settings import grids_from_flags

    run_script(lambda: None, sweep.FLAGS, argv=[])
    blocks = [block for page in PAGES for block in fences(page.read_text())[0]]
    grids = [content for language, content in blocks if language == "yaml"]
    assert grids
    for content in grids:
        file = tmp_path / "grid.yaml"
        file.write_text(content)
        assert len(grids_from_flags(sweep.FLAGS, str(file))) == content.count("- potentials")


@pytest.fixture(scope="module")
def known_flags():
    """Of all scripts and benchmarks."""
    known = {"--help", "--helpfull"}  # absl's own, which every script answers
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            if re.search(r"^FLAGS = ", file.read_text(), flags=re.M):
                module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
                flags = importlib.import_module(module).FLAGS
                run_script(lambda: None, flags, argv=[])  # defines those that all scripts have
                names = [name.replace("_", "-") for name in flags]
                known |= {f"--{name}" for name in names}
                known |= {f"--no{n}" for n in names if flags[n.replace("-", "_")].boolean}
    for file in (ROOT / "benchmarks").glob("*.py"):
        known |= set(re.findall(r'"(--[a-z-]+)"', file.read_text()))
    return known


@each_page
def test_every_flag_that_is_named_exists(page, known_flags):
    _, prose = fences(page.read_text())
    spans = [s for s in code_spans(prose) if re.match(r"--|python |data_generation ", s)]
    named = {flag for span in spans for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span)}
    assert named - known_flags == set()


def test_measured_numbers_are_those_of_the_page_of_numbers():
    known = set(re.findall(r"\d+\.\d+", (DOCS / "numbers.md").read_text()))
    for page in sorted((DOCS / "systems").glob("*.md")):
        _, _, section = page.read_text().partition("## The commands of the numbers")
        section = section.partition("\n## ")[0]
        found = set(re.findall(r"\d+\.\d+", re.sub(r"^ {4}.*$", "", section, flags=re.M)))
        assert found - known == set(), page.name


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("python -m experiments.trian --epochs=3", "no module experiments.trian"),
        ("python -m experiments.train --epoch=3", "its flags are not understood"),
        ("python -m experiments.train --epochs=many", "its flags are not understood"),
        ("python -m experiments.train --solver=jkonet-moon", "unknown solver 'jkonet-moon'"),
        ("data_generation --potential=saddle", "unknown potential 'saddle'"),
        ("python benchmarks/nothing.py", "no file nothing.py"),
        ("python benchmarks/beta.py --speed=3", "no flag --speed"),
        ("make coffee", "no target coffee"),
        ("make test PYTHN=python3.13", "no target PYTHN="),
    ],
)
def test_each_kind_of_command_can_be_wrong(command, problem):
    assert any(found.startswith(problem) for found in problems_of(command))


def test_commands_are_found_wherever_they_stand():
    text = (
        "Say `make demo` or\n\n    data_generation --dt=1 \\\n        --seed=2   # why\n\n"
        "```bash\npython -m experiments.train --resume $again\n```\n"
        "```python\nmake = 3\n```\n"
    )
    assert [c.split() for c in command_lines(text)] == [
        ["python", "-m", "experiments.train", "--resume", "$again"],
        ["data_generation", "--dt=1", "--seed=2"],
        ["make", "demo"],
    ]


CARDS = sorted((ROOT / "checkpoints" / "pretrained").glob("*/card.json"))


@pytest.mark.parametrize("file", CARDS, ids=lambda file: file.parent.name)
def test_cards_name_commands_and_functions_that_exist(file):
    card = json.loads(file.read_text())
    commands = {card["command"], *(metric["command"] for metric in card["metrics"])}
    commands |= set(command_lines(card["use"]))
    assert {c: problems_of(c) for c in commands if problems_of(c)} == {}
    for name in re.findall(r"`((?:\w+\.)+\w+)`", card["use"]):
        pkgutil.resolve_name(name)


def check_contributing(scope):
    x = scope["x"]
    for name in ("quartic", "again", "paired"):
        drift = np.asarray(scope[name].drift(x))
        assert np.linalg.norm(drift + x) < 0.1 * np.linalg.norm(x)
    np.testing.assert_array_equal(scope["quartic"].drift(x), scope["again"].drift(x))
    field = np.asarray(scope["drifting"].drift(x))
    np.testing.assert_allclose(field, np.broadcast_to([2.0, -1.0], x.shape), rtol=1e-4)
    assert float(scope["shrink"].params["params"]["a"]) == pytest.approx(1.0, abs=0.05)
    check_script(scope)


def check_script(scope):
    assert scope["run"](["--law=line", "--n-points=1000", "--run-name=a"]) == 0
    summary = json.loads(Path("runs/a/summary.json").read_text())
    assert summary["entropy"] == pytest.approx(math.log(2.0))
    assert scope["run"](["--law=line", "--n-points=1"]) == 2
    assert scope["run"](["--law=lime"]) == 2


def check_quick_start(scope):
    # V = -10 |x|^2: every Euler step of 0.01 takes the particles 1.2 times as far.
    moved = abs(scope["path"][5]).mean() / abs(scope["points"][0]).mean()
    assert float(moved) == pytest.approx(1.2**5, rel=0.05)


def check_formats(scope):
    assert scope["dataset"].train.points.shape == (3, 30, 2)
    assert scope["snapshots"].times.tolist() == [0.0, 1.0, 2.5]
    assert scope["energy"].dimension == 2


def as_trackers_write(simulated):
    """`simulated_colloids` with its rows in no order, one in twenty missing, and a frame dropped."""

    def table(*args, **kwargs):
        tracks = simulated(*args, **kwargs)
        rng = np.random.default_rng(0)
        rows = rng.permutation(len(tracks.time))[len(tracks.time) // 20 :]
        rows = rows[tracks.time[rows] != np.unique(tracks.time)[7]]
        return type(tracks)(*(column[rows] for column in tracks))

    return table


def check_particles(scope):
    assert len(scope["left"]) < 0.93 * 200 * 40  # not the table as it is simulated
    assert abs(scope["diffusion"] - 0.2) < 0.01
    assert scope["lower"] < 1.5 < scope["upper"]


def check_pretrained(scope):
    assert {"dino", "sparse_n64_k6", "styblinski_tang"} <= set(scope["names"])
    assert scope["energy"].dimension == 2
    assert scope["denoiser"].about["n"] == 64
    assert str(scope["card"]).startswith("# ")


def check_jkonet_star(scope):
    assert scope["emd"] < 1e-4
    assert scope["path"].shape == (6, 200, 2)
    # Forward along the slope that reverse mode found, the misfit rises by its squared length.
    slope = scope["slope"]
    _, rise = jax.jvp(scope["misfit"], (scope["energy"].params,), (slope,))
    square = sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(slope))
    assert square > 0
    assert float(rise) == pytest.approx(square, rel=1e-3)


def check_rank_one(scope):
    assert scope["network_error"] < 0.7 * scope["spectral_error"]


def check_sparse_pixels(scope):
    unobserved = ~(scope["told"] | scope["asked"])
    assert (scope["slope"][unobserved] == 0).all()
    assert (scope["slope"][scope["asked"]] != 0).any()
    error = scope["filled"] - scope["x"]
    assert abs(error[~scope["told"]]).mean() < 0.5 * abs(scope["x"]).mean()


def check_cells(scope):
    adata, future = scope["adata"], scope["future"]
    np.testing.assert_allclose(adata.obsm["jkonet_fates"].sum(axis=1), 1.0, rtol=1e-5)
    assert future.shape == ((adata.obs["day"] == "d4.5").sum(), adata.n_vars)
    assert len(scope["axes"]) == 3


CHECKS = {
    "cells.md": check_cells,
    "contributing.md": check_contributing,
    "data_formats.md": check_formats,
    "reference/api.md": lambda s: all(callable(s[name]) for name in ("fit", "Network")),
    "gpu_and_cluster.md": lambda s: s["energies"].times.shape == (8, 3),
    "particles.md": check_particles,
    "populations.md": lambda s: s["course"].snapshots.shape == (5, 1300, 2),
    "pretrained.md": check_pretrained,
    "quick_start.md": check_quick_start,
    "systems/information_theoretic.md": lambda s: abs(s["error"]).max() < 0.1,
    "systems/jkonet_star.md": check_jkonet_star,
    "systems/linear_denoiser.md": lambda s: (
        0 < s["kl"] - s["model"].limiting_kl < 0.15 * s["model"].limiting_kl
    ),
    "systems/sparse_pixels.md": check_sparse_pixels,
    "systems/sparse_rank_one.md": check_rank_one,
}


def examples(page):
    blocks, _ = fences(page.read_text())
    return "\n".join(content for language, content in blocks if language == "python")


def test_every_page_with_an_example_has_a_check():
    with_examples = {p.relative_to(DOCS).as_posix() for p in PAGES[3:] if examples(p)}
    assert with_examples == set(CHECKS)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(CHECKS))
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    colloids = as_trackers_write(simulated_colloids.simulated_colloids)
    monkeypatch.setattr(simulated_colloids, "simulated_colloids", colloids)
    scope = {"__name__": "example"}
    exec(examples(DOCS / page), scope)
    assert CHECKS[page](scope) in (None, True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; warnings are errors."""
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    pytest.importorskip("furo")
    folder = tmp_path_factory.mktemp("site")
    source = folder / "docs"
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("_build", "modules", "__pycache__"))
    options = ["-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(source), str(folder / "html")],
        cwd=folder,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def public_names():
    """Full names of the public functions and classes of all modules."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            if file.stem.startswith("_"):
                continue
            for node in ast.parse(file.read_text()).body:
                public = isinstance(node, ast.FunctionDef | ast.ClassDef)
                # With a derivative of its own a function is an object, which autodoc passes over.
                public = public and "custom_" not in "".join(map(ast.unparse, node.decorator_list))
                if public and not node.name.startswith("_") and ast.get_docstring(node):
                    yield f"{module}.{node.name}"


@pytest.mark.slow
def test_the_site_has_every_public_name(site):
    # Four lines of header, then compressed lines of which the first word is a name.
    content = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    documented = {line.split()[0] for line in zlib.decompress(content).decode().splitlines()}
    assert [name for name in public_names() if name not in documented] == []


@pytest.mark.slow
def test_annotations_read_as_they_are_written(site):
    modules = site / "reference" / "modules"
    pages = [
        modules / f"jkonet_star.{name}.html"
        for name in ("fitted", "energy_functions", "trajectories")
    ]
    page = "".join(path.read_text() for path in pages)
    text = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert "points: Float[Array, 't n d'], converged: Bool[Array, 'steps n']" in text
    assert "population: Float[Array, 'm d'] | HostArray | None = None" in text
    assert "jaxlib" not in text
    assert "J(mu) = int V dmu" in text
