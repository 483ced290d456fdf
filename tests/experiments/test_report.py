"""Reports are one valid page each, hold what the run holds, and their commands make the run again."""

import base64
import html.parser
import json
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
from matplotlib.image import imread

from data_generation.scripts.figures import new_figure, save_figure
from data_generation.scripts.files import write_json
from experiments import report
from experiments.populations.learning_settings import learning_from_flags
from experiments.populations.settings import TrainSettings
from experiments.reports.charts import MOST_POINTS, chart, curves
from experiments.reports.html import content, markdown, text
from experiments.reports.law import law_content
from experiments.reports.results import headline
from experiments.run.commands import run_command
from experiments.run.folder import RunFolder, start_run
from experiments.run.outputs import ABOUT
from experiments.train import FLAGS as TRAIN_FLAGS

VOID = {"meta", "img", "br", "path", "circle"}
RESULTS = {
    "solver": "jkonet-star-potential",
    "emd_one_step_ahead": {"mean": 0.12345, "std": 0.0, "per_step": [0.1, 0.2]},
    "field_error": {"drift": {"relative": [0.5]}, "l2_uvp": [1.5]},
    "mse": {"network": {"1": 0.25, "2": 0.5}, "spectral": {"1": 1.0, "2": float("inf")}},
    "table": [{"n": 25, "kl": 1.0}, {"n": 50, "kl": None}],
    "seconds": {"train": 1.5, "total": 2.0},
    "device": "abacus (wood)",
    "peak_memory_bytes": 3 * 2**20,
}


class Page(html.parser.HTMLParser):
    """The elements of a page; every one that is opened must be closed in its place."""

    def __init__(self, source):
        super().__init__()
        self.open, self.found, self.words, self.styles = [], [], [], []
        assert source.startswith("<!DOCTYPE html>\n<html lang=")
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.styles if self.open[-1:] == ["style"] else self.words).append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def each(self, tag):
        return [attributes for found, attributes in self.found if found == tag]


def page_of(folder, *flags):
    assert report.run([f"--run={folder}", *flags]) == 0
    page = Page((folder / "report.html").read_text())
    for tag, attributes in page.found:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "data", "poster", "srcset"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "url(" not in "".join(page.styles)
    assert "@import" not in "".join(page.styles)
    return page


def judged(**more):
    """A law, as a summary has it."""
    yardsticks = {"no_motion": [0.75, 0.5], "lookup": [None, None]}
    score = {"mean": 0.0625, "per_step": [0.05, 0.075], "no_motion": 0.625, "lookup": None}
    score |= {"per_step_yardsticks": yardsticks}
    return {
        "w1": score,
        "n_compared": [40, 41],
        "verdict": "the lookup's <b>",
        "beaten": False,
        **more,
    }


def figure(file):
    drawn, axes = new_figure(1, size=1.0)
    axes[0, 0].plot([0, 1], [1, 0])
    save_figure(drawn, file)


def make_run(parent, name, *, finish=True, dataset="data/dino <b>", flags=()):
    """The folder of a training that never took place."""
    TRAIN_FLAGS.unparse_flags()
    TRAIN_FLAGS(["", *flags])
    learning = learning_from_flags(TRAIN_FLAGS)
    settings = TrainSettings(run_name=name, runs_dir=str(parent), seeds=(0, 3), scheme="midpoint")
    run = start_run(
        settings, "experiments.train", "", *learning.of(settings.solver), dataset=dataset
    )
    run.log([{"epoch": k, "loss": [1 / k, 2 / k if k < 3 else float("nan")]} for k in range(1, 6)])
    for number in ("", "_0001", "_0002"):
        figure(run.plots / f"potential{number}.png")
    if finish:
        run.finish(RESULTS)
    return run.path


@pytest.mark.parametrize(("letters", "said"), [(0, r"\d\d kB"), (2 * 2**20, r"2\.0 MiB")])
def test_the_size_of_a_page_is_said_in_a_unit_that_shows_it(letters, said, tmp_path, capsys):
    run = make_run(tmp_path, "made", flags=[])
    (run / "notes.md").write_text("x" * letters)
    page_of(run)
    size = (run / "report.html").stat().st_size
    assert re.fullmatch(rf".*report\.html \({said}\)\n", capsys.readouterr().out)
    assert (size > 2**20) == (letters > 0)


@pytest.fixture
def made(tmp_path):
    return make_run(tmp_path, "made", flags=["--hidden=8,4", "--learning_rate=0.01"])


def test_a_run_s_page_holds_everything(made):
    (made / "table.csv").write_text("n,kl\n25,1.5\n50,inf\n")
    page = page_of(made)
    for expected in (
        "0.1235",
        "EMD one step ahead",
        "abacus (wood)",
        "experiments.train",
        "seconds, train",
        "data/dino <b>",  # as text
        "table.csv",
    ):
        assert expected in page.text, expected
    assert "not finished" not in page.text
    assert "peak memory, MiB 3" in page.text
    pictures = [base64.b64decode(p["src"].partition(",")[2]) for p in page.each("img")]
    assert sorted(pictures) == sorted(p.read_bytes() for p in (made / "plots").glob("*.png"))
    assert len(page.each("svg")) == 1
    assert page.each("meta")[1]["content"].startswith("width=device-width")
    assert "prefers-color-scheme: dark" in "".join(page.styles)


def test_the_command_makes_the_same_run_again(made):
    """Read back by the script's own flags, the settings are those of the run: it can be resumed."""
    config = RunFolder(made).config()["settings"]
    line = run_command(config)
    assert text(line) in (page_of(made) and (made / "report.html").read_text())
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "experiments.train"]
    assert "--learning-rate=0.01" in words
    assert "--seeds=0,3" in words
    assert not any("epochs" in word for word in words)  # a default
    for name in TRAIN_FLAGS:
        TRAIN_FLAGS[name].unparse()
    TRAIN_FLAGS(["", *(word.replace("-", "_").replace("__", "--", 1) for word in words[3:])])
    given = {name: TRAIN_FLAGS[name].value for name in ("solver", "dataset", "scheme", "seeds")}
    again = TrainSettings(runs_dir=str(made.parent), run_name=made.name, resume=True, **given)
    learning = learning_from_flags(TRAIN_FLAGS).of(again.solver)
    assert start_run(again, "experiments.train", "", *learning).finished


def test_a_foreign_script_is_not_imported(tmp_path):
    for name in ("os", "experiments.missing", "experiments..train", None):
        assert run_command({"script": name}) is None


def test_an_unfinished_run_is_reported_with_a_notice(tmp_path):
    page = page_of(make_run(tmp_path, "half", finish=False))
    assert "This run is not finished: what follows is its state after epoch 5." in page.text
    assert "--resume --run-name=half" in page.text
    assert len(page.each("svg")) == 1


def test_a_sweep_s_page(tmp_path):
    folder = tmp_path / "grid"
    for name in ("one", "two"):
        make_run(folder / "runs", name, finish=name == "one")
    (folder / "table.csv").write_text("solver,status,emd\na,finished,0.5\nb,missing,\n")
    (folder / "table.md").write_text(
        "# grid\n\n2 runs\n\n| solver | emd |\n|---|---|\n| a | 0.5 |\n"
    )
    (folder / "failures").mkdir()
    (folder / "failures" / "two.json").write_text('{"attempts": 1, "reason": "no <disk>"}')
    figure(folder / "plots" / "errors.png")
    page = page_of(folder)
    assert "1 of 2 runs are not finished." in page.text
    assert "no <disk>" in page.text
    assert page.text.count("python -m experiments.train") == 2
    assert len(page.each("img")) == 1
    assert {"h3", "table", "details"} <= {tag for tag, _ in page.found}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "no run {}/mades; {} holds made"),
        ("parent", "{} is not the folder of a run or of a sweep; it holds the runs {}/made"),
        ("file", "{}/made/config.json is a file, not the folder of a run"),
        ("damaged", "{}/made/summary.json is damaged"),
        ("newer", "config.json has schema version 99; this release reads up to 2"),
        ("out", "cannot write to {}: it is a folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(made, what, message, capsys):
    run, flags = made, []
    if what == "missing":
        run = made.parent / "mades"
    elif what == "parent":
        run = made.parent
    elif what == "file":
        run = made / "config.json"
    elif what == "damaged":
        (made / "summary.json").write_text("{")
    elif what == "newer":
        config = json.loads((made / "config.json").read_text())
        (made / "config.json").write_text(json.dumps(config | {"schema_version": 99}))
    else:
        flags = [f"--out={made.parent}"]
    assert report.run([f"--run={run}", *flags]) == 2
    error = capsys.readouterr().err
    assert message.replace("{}", str(made.parent)) in error
    assert error.count("\n") == 1
    assert not (made / "report.html").exists()


def test_curves_keep_what_can_be_seen():
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 2, 5000)
    values[1234], values[4321] = 1e-3, 77.0
    rows = [{"epoch": k, "loss": [v, "nan"], "word": "x"} for k, v in enumerate(values.tolist(), 1)]
    found = curves(rows)
    assert list(found) == ["loss"]
    assert [len(line) for line in found["loss"]] == [5000, 0]
    drawn = chart("loss", found["loss"])
    heights = [float(y) for y in re.findall(r"[ML](?:[\d.]+) ([\d.]+)", drawn)][-MOST_POINTS:]
    assert len(re.findall("L", drawn)) <= 1.1 * MOST_POINTS
    assert min(heights) == pytest.approx(8.0, abs=0.06)  # the largest value is at the top
    assert max(heights) == pytest.approx(190.0, abs=0.06)
    assert "logarithmic" in drawn
    ticks = re.findall(r'text-anchor="end"[^>]*>([^<]+)', chart("a", [[(1.0, 0.0), (2.0, 1.0)]]))
    assert [float(t) for t in ticks[:-1]] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    narrow = chart("a", [[(1.0, 18.801), (2.0, 18.804)]])
    ticks = re.findall(r'text-anchor="end"[^>]*>([^<]+)', narrow)[:-1]
    assert ticks == ["18.801", "18.802", "18.803", "18.804"]


def test_any_json_has_a_form():
    matrix = content({"a": {"x": 1, "y": 2, "z": 3}, "b": {"x": 4, "y": 5, "z": 6}})
    assert matrix.count("<tr>") == 4  # the longer side goes down
    assert ">6<" in matrix
    assert "20 values, 0 to 19" in content(list(range(20)))
    assert content([True, None, 1234567, "<"]) == "yes, , 1,234,567, &lt;"
    assert content({}) == content([]) == ""
    made = markdown("# T\n\n`a` < 3\nlines\n\n| a |\n|---|\n| 2 |")
    assert made.startswith("<h3>T</h3>\n<p><code>a</code> &lt; 3 lines</p>\n<div")
    assert made.count('<td class="number">2</td>') == 1


def browser():
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium or Chrome on the path")
    return found


def test_in_a_real_browser(made):
    """On a phone nothing but wide tables needs sideways scrolling, and every figure is decoded."""
    program = browser()
    page_of(made)
    source = (made / "report.html").read_text()
    (made / "probed.html").write_text(
        source.replace(
            "</body>",
            "<script>document.title = JSON.stringify([document.documentElement.scrollWidth,"
            " innerWidth, [...document.images].map(i => i.naturalWidth), document.compatMode])"
            "</script></body>",
        )
    )

    def start(*flags):
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
        return subprocess.run(
            [program, *options, f"--user-data-dir={made.parent / 'browser'}", *flags],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        ).stdout

    document = start("--window-size=500,900", "--dump-dom", (made / "probed.html").as_uri())
    width, window, images, mode = json.loads(re.search("<title>(.*)</title>", document)[1])
    assert width <= window <= 500
    assert len(images) == 3
    assert min(images) > 0
    assert mode == "CSS1Compat"
    shot = made.parent / "shot.png"
    start("--window-size=800,900", f"--screenshot={shot}", (made / "report.html").as_uri())
    pixels = imread(shot)
    assert pixels.shape[:2] == (900, 800)
    assert np.ptp(pixels[..., :3]) > 0.5


def test_the_predicted_law_stands_beside_its_yardsticks(tmp_path):
    run = make_run(tmp_path, "made", finish=False)
    RunFolder(run).finish({**RESULTS, "law": judged()})
    page = page_of(run)
    assert "Predicted law energy no motion lookup distance W1 0.0625 0.625 by step" in page.text
    verdict = page.text.index("The lookup's <b>.")
    assert verdict < page.text.index("Figures") < page.text.index("Predicted law")
    assert "step energy no motion lookup 0 0.05 0.75 1 0.075 0.5" in page.text
    assert not any(p.get("class") == "notice" for p in page.each("p"))
    RunFolder(run).finish({**RESULTS, "law": judged(beaten=True)})
    assert any(p.get("class") == "notice" for p in page_of(run).each("p"))


@pytest.mark.parametrize("law", [None, {}, [], 3, "x", {"w1": {"per_step": 1}}, {"w1": [1]}])
def test_a_law_of_another_form_is_shown_as_it_is(law):
    Page(f'<!DOCTYPE html>\n<html lang="en">{law_content(law)}</html>')


def test_a_page_says_what_the_numbers_are_worth_and_nothing_twice(tmp_path):
    run = make_run(tmp_path, "made", finish=False)
    figure(run / "plots" / "training.png")  # the curves of the metrics, which the page draws
    score = {"mean": 0.25, "std": 0.0, "per_seed": [0.25], "per_step": [0.125, 0.375]}
    results = {
        **RESULTS,
        "verdict": "the energy is better",
        "w1_one_step_ahead": {"energy": 0.0625, "no_motion": 0.75, "floor": None},
        "emd_cumulative": score,
        "beta": {"mean": 0.0, "std": 0.0, "per_seed": [0.0, 0.0]},
        "outliers": [],
        "couplings": [{"method": "exact", "pairs": 1000}],
        "warnings": ["five particles are <far> away"],
    }
    RunFolder(run).finish({**results, "law": judged()})
    page = page_of(run)
    worth = "W1 one step ahead is 0.0625 by the energy, 0.75 where nothing moves."
    assert page.text.index("The energy is better.") < page.text.index(worth)
    warning = page.text.index("Warning: five particles are <far> away")
    assert page.text.index(worth) < warning < page.text.index("Figures")
    told = page.text[page.text.index("Results") :]
    assert "EMD from the first snapshot on mean 0.25 by step 0.125, 0.375 " in told
    assert "outliers" not in told
    assert " beta " not in told
    assert told.index("how it was learned") < told.index("exact")
    assert "training.png" not in page.text.partition("Environment")[0]
    assert len(page.each("svg")) == 1


def test_what_was_made_later_with_the_network_of_a_run_is_on_its_page(tmp_path):
    """The folders of `--mode=evaluate` and `--mode=sample`; names of numbers in words."""
    run = make_run(tmp_path, "made", flags=[])
    found = {
        "verdict": "above kriging",
        "beaten": False,
        "psnr_unseen": 21.875,
        "psnr_unseen_by_method": {"mean": 15.5, "kriging": 20.25},
        "n_test": 12345,
    }
    for name, told in (("evaluation", found), ("other", {}), ("private", None)):
        figure(run / name / "plots" / "reconstructions.png")
        if told is not None:
            write_json(run / name / ABOUT, {"script": "experiments.sparse_pixels", "files": []})
        if told:
            write_json(run / name / "evaluation.json", told)
            (run / name / "methods.csv").write_text("method,rmse_unseen\nkriging,0.0625\n")
    page = page_of(run)
    own = page.text[page.text.index(" Evaluation Above kriging.") :]
    assert "PSNR of unseen pixels, dB 21.88 PSNR of unseen pixels by method, dB mean 15.5 " in own
    assert "held-out images 12,345" in own
    assert "method root mean square error of unseen pixels kriging 0.0625" in own
    assert own.index(" Other ") > 0
    assert " Private " not in page.text
    pictures = [img["alt"] for img in page.each("img")]
    assert pictures.count("reconstructions") == 2


def test_a_later_evaluation_that_is_damaged_is_named(tmp_path, capsys):
    run = make_run(tmp_path, "made", flags=[])
    (run / "evaluation").mkdir()
    write_json(run / "evaluation" / ABOUT, {})
    write_json(run / "evaluation" / "evaluation.json", ["no", "object"])
    assert report.run([f"--run={run}"]) == 2
    assert "evaluation/evaluation.json is damaged" in capsys.readouterr().err


def test_a_card_is_a_mean_over_seeds_and_no_method_of_that_name():
    results = {
        "emd": {"mean": 0.5, "std": 0.1, "per_seed": [0.4, 0.6]},
        "psnr_unseen_by_method": {"mean": 15.5, "kriging": 20.25},
        "loss": 0.25,
    }
    assert headline(results) == {"emd": 0.5, "loss": 0.25}
