"""A figure is a picture and a page of vectors, alike each time; its colours are explained."""

import ast
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from data_generation.scripts.figures import (
    TITLE_SIZE,
    VECTORS,
    add_pictures,
    colour_bar,
    coordinate,
    empty_figure,
    in_style,
    log_scale,
    new_figure,
    save_figure,
)
from data_generation.scripts.vectors import vectors, vectors_wanted


def drawn(file):
    figure, grid = new_figure(2)
    grid[0, 0].plot([0, 1, 3])
    grid[0, 0].set_yscale("log")
    image = grid[0, 1].imshow(np.eye(3))
    colour_bar(image, grid[0, 1], "V [length$^2$ / time]")
    with vectors(True):
        save_figure(figure, file)
    return figure


def test_a_page_is_written_on_request_and_never_older_than_its_picture(tmp_path):
    figure, grid = new_figure(1)
    grid[0, 0].plot([0, 1])
    foreign = tmp_path / "b.pdf"
    foreign.write_bytes(b"somebody's")
    for wanted, there in ((False, []), (True, ["a.pdf"]), (False, [])):
        with vectors(wanted):
            save_figure(figure, tmp_path / "a.png")
        assert [p.name for p in sorted(tmp_path.glob("a.pdf"))] == there
    save_figure(figure, tmp_path / "b.png")
    assert foreign.read_bytes() == b"somebody's"
    for wanted, there in ((True, ["c.pdf"]), (False, [])):
        new = tmp_path / "new"
        with vectors(wanted):
            save_figure(figure, new / "c.png")
        add_pictures(tmp_path / "all", new)
        assert [p.name for p in (tmp_path / "all").glob("*.pdf")] == there
    with vectors(True), vectors(False):
        assert not vectors_wanted()
    assert not vectors_wanted()


def test_the_same_content_is_the_same_picture_and_the_same_page(tmp_path):
    before = dict(matplotlib.rcParams)
    for name in ("a", "b"):
        drawn(tmp_path / "deep" / f"{name}.png")
    assert dict(matplotlib.rcParams) == before
    a, b = (tmp_path / "deep" / f"{name}.png" for name in ("a", "b"))
    assert a.read_bytes() == b.read_bytes()
    page = a.with_suffix(VECTORS).read_bytes()
    assert page == b.with_suffix(VECTORS).read_bytes()
    assert page.startswith(b"%PDF")
    assert sorted(p.name for p in a.parent.iterdir()) == ["a.pdf", "a.png", "b.pdf", "b.png"]


def test_letters_of_the_page_are_such_that_publishers_take(tmp_path):
    drawn(tmp_path / "a.png")
    kinds = set(re.findall(rb"/Subtype /(Type3|Type42|TrueType|CIDFontType2|Type1)\b",
                           (tmp_path / "a.pdf").read_bytes()))  # fmt: skip
    assert kinds
    assert b"Type3" not in kinds


def test_picture_and_page_have_one_layout(tmp_path):
    figure = drawn(tmp_path / "a.png")
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", (tmp_path / "a.pdf").read_bytes())
    page = np.array([float(value) for value in box.groups()]) / 72
    picture = np.array(imread(tmp_path / "a.png").shape[1::-1]) / figure.dpi
    np.testing.assert_allclose(picture, page, atol=0.03)


def test_nothing_is_cut_off(tmp_path):
    """Equal axes and long words need more room than the size that is asked for."""
    figure = empty_figure(3.0, 2.0)
    axes = figure.add_subplot()
    in_style([axes])
    axes.set(title="words without end " * 5, xlabel="x", ylabel="y", aspect="equal")
    colour_bar(axes.imshow(np.eye(2)), axes, "V [length$^2$ / time]")
    save_figure(figure, tmp_path / "a.png")
    image = imread(tmp_path / "a.png")[..., :3]
    sides = (image[:3], image[-3:], image[:, :3], image[:, -3:])
    assert all((side == 1).all() for side in sides)
    assert image.shape[1] > 1.2 * 3.0 * figure.dpi


def test_a_picture_ends_around_what_is_drawn(tmp_path):
    """Equal axes in a wide figure leave white at the sides; all of an empty figure is kept."""
    figure, grid = new_figure(1)
    figure.set_size_inches(6.0, 2.0)
    grid[0, 0].set_aspect("equal")
    save_figure(figure, tmp_path / "a.png")
    dark = (imread(tmp_path / "a.png")[..., :3] < 1).any(axis=2)
    for along in (dark.any(axis=0), dark.any(axis=1)):
        found = np.flatnonzero(along)
        edges = found[0], len(along) - 1 - found[-1]
        assert min(edges) >= 1
        assert max(edges) <= round(0.05 * figure.dpi)
    assert dark.shape[1] < 0.5 * 6.0 * figure.dpi
    save_figure(empty_figure(1.0, 2.0), tmp_path / "b.png")
    assert imread(tmp_path / "b.png").shape[:2] == (2.0 * figure.dpi, figure.dpi)


def plain(label):
    """A label of Matplotlib's, typeset, in the same letters without."""
    label = label.replace("$\\mathdefault{", "").replace("}$", "").replace(r"\times", "×")
    raised = str.maketrans("-−0123456789", "⁻⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return re.sub(r"\^\{(.*?)\}", lambda m: m[1].translate(raised), label).replace(" ", "")


@pytest.mark.parametrize("side", ["x", "y"])
@pytest.mark.parametrize(
    ("low", "high"),
    [
        (1e-6, 1.0),
        (2e-4, 4e-3),
        (1.3e-3, 4.1e-3),
        (0.5, 2e4),
        (3e11, 8e12),
        (1e-40, 1.0),
        (1.3e-3, 1.9e-3),
        (6.1, 7.9),
        (99.0, 101.0),
        (0.95, 1.05),
        (5e-5, 5.4e-5),
        (1e-300, 1e200),
    ],
)
def test_a_logarithmic_axis_has_the_labels_of_matplotlib(side, low, high):
    labels = []
    for scale in (lambda axes: getattr(axes, f"set_{side}scale")("log"), None):
        figure, grid = new_figure(1)
        axes = grid[0, 0]
        axis = getattr(axes, f"{side}axis")
        log_scale(axis) if scale is None else scale(axes)
        getattr(axes, f"set_{side}lim")(low, high)
        figure.draw_without_rendering()
        labels.append(
            [t.get_text() for t in (*axis.get_majorticklabels(), *axis.get_minorticklabels())]
        )
        other = axes.yaxis if side == "x" else axes.xaxis
        assert other.get_scale() == "linear"
    assert any(labels[1])
    assert labels[1] == [plain(label) for label in labels[0]]


def test_coordinates_count_from_one():
    assert [coordinate(0), coordinate(11, "z")] == ["x₁", "z₁₂"]


def test_a_font_without_the_letters_keeps_matplotlibs_typesetting():
    """STIXGeneral, which Matplotlib ships, has no lowered digits; LaTeX does not know them."""
    assert coordinate(0) == "x₁"
    for own in ({"font.sans-serif": ["STIXGeneral"]}, {"text.usetex": True}):
        with matplotlib.rc_context(own):
            assert coordinate(0) == "$x_{1}$"
    with matplotlib.rc_context({"font.family": ["STIXGeneral"]}):
        assert coordinate(11) == "$x_{12}$"
        figure, grid = new_figure(1)
        log_scale(grid[0, 0].yaxis)
        grid[0, 0].set_ylim(1e-3, 1)
        figure.draw_without_rendering()
        assert "mathdefault" in grid[0, 0].get_yticklabels()[1].get_text()


def test_logarithmic_axes_and_coordinates_are_those_of_the_style():
    root, own = Path(__file__).parents[3], "data_generation/scripts/figures.py"
    for file in (f for p in ("experiments", "data_generation") for f in (root / p).rglob("*.py")):
        if file == root / own:
            continue
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\$[xz]_\d|\$\^2\$|\$-\$", text), file
        assert not re.search(r"scale(=|\()\"log\"", text), file


@pytest.mark.parametrize("words", ["variance ra | tio", "a     b", "letters"])
@pytest.mark.parametrize("x", [0.9, 0.97, 1.3])
def test_words_beyond_the_figure_are_there(tmp_path, words, x):
    """Also where the edge of the figure falls between two letters, or before the first."""
    figure, grid = new_figure(1, size=2.0)
    grid[0, 0].plot([0, 1])
    figure.text(x, 0.5, words, fontsize=17, in_layout=False)
    with vectors(True):
        save_figure(figure, tmp_path / "a.png")
    box = figure.get_tightbbox()
    note = figure.texts[0].get_window_extent()
    assert note.x1 > figure.bbox.x1
    width = imread(tmp_path / "a.png").shape[1] / figure.dpi
    assert width > note.x1 / figure.dpi - max(box.x0, 0) - 0.1


def test_words_that_are_not_drawn_need_no_room(tmp_path):
    figure, grid = new_figure(3, size=2.0)
    for axes in grid[0]:
        axes.plot([0, 1])
    grid[0, 0].set_title("nowhere " * 30, fontsize=TITLE_SIZE)
    grid[0, 0].set_visible(False)
    grid[0, 1].set_xlabel("nowhere " * 30)
    grid[0, 1].set_axis_off()
    grid[0, 2].text(0.5, 0.5, "cut off " * 30, clip_on=True)
    save_figure(figure, tmp_path / "a.png")
    assert imread(tmp_path / "a.png").shape[1] <= 6.0 * figure.dpi


def test_picture_and_page_show_the_same_part(tmp_path, monkeypatch):
    boxes = []
    kept = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda *a, bbox_inches, **k: boxes.append(bbox_inches) or kept(*a, **k)
    )
    figure = empty_figure(4.0, 3.0)
    figure.set_layout_engine("none")
    figure.add_axes((0.1, 0.5, 0.3, 0.4)).plot([0, 1])  # nothing below, nothing to the right
    with vectors(True):
        save_figure(figure, tmp_path / "a.png")
    (box,) = boxes
    drawn = figure.get_tightbbox()
    assert np.abs(box.get_points() - drawn.get_points()).max() < 0.08
    shape = np.array(imread(tmp_path / "a.png").shape[:2]) / figure.dpi
    assert shape == pytest.approx([box.height, box.width], abs=0.02)


def test_white_pictures_are_no_paper(tmp_path):
    figure, grid = new_figure(3, size=1.0)
    for axes, value in zip(grid[0], (1.0, 0.0, 1.0), strict=True):
        axes.imshow(np.full((8, 8), value), cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
    save_figure(figure, tmp_path / "a.png")
    height, width = imread(tmp_path / "a.png").shape[:2]
    assert width > 2.9 * (height - 10)


def test_settings_of_the_user_turn_nothing_over(tmp_path):
    for name, own in (("a", {}), ("b", {"image.origin": "lower", "savefig.dpi": 300})):
        with matplotlib.rc_context(own):
            figure, grid = new_figure(1)
            grid[0, 0].plot([0, 1, 3])
            save_figure(figure, tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_titles_have_the_sizes_of_the_style():
    """`set(title=...)` takes Matplotlib's own size, larger than everything around it."""
    root = Path(__file__).parents[3]
    for file in (f for p in ("experiments", "data_generation") for f in (root / p).rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            place = f"{file.relative_to(root)}:{call.lineno}"
            assert not (call.func.attr == "set" and "title" in given), place
            if call.func.attr in ("set_title", "suptitle"):
                assert given.get("fontsize") in {"TITLE_SIZE", "LABEL_SIZE", "TICK_SIZE"}, place
