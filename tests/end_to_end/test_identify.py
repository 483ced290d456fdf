"""A population that turns: `--circulation` predicts it, and `experiments.identify` says what it is."""

import json

import matplotlib.image
import numpy as np

from checkpoints import load_energy
from experiments import identify, report
from experiments.run.outputs import is_identification


def test_a_turning_population_is_predicted_and_recognised(place, tmp_path, capsys):
    rng, made = np.random.default_rng(0), []
    for k in range(5):
        c, s = np.cos(k * np.pi / 6), np.sin(k * np.pi / 6)
        made.append((rng.normal(size=(400, 2)) * [2, 1]) @ np.array([[c, s], [-s, c]]))
    np.save(tmp_path / "turning.npy", np.stack(made).astype(np.float32))
    place.generate(
        "turning", f"--load-from-file={tmp_path / 'turning.npy'}", "--n-gmm-components=0"
    )
    linear = (
        "--solver=jkonet-star-linear-potential",
        "--dataset=turning",
        "--radial=none",
        "--total-degree=2",
    )
    still = place.train("still", *linear)
    run = place.train("turned", *linear, "--circulation")
    energies = load_energy(run / "energy")
    assert energies.has_circulation
    assert "circulation" in repr(energies)

    def left(folder):
        law = json.loads((folder / "summary.json").read_text())["law"]["energy_distance"]
        return law["mean"] / law["no_motion"]

    assert left(run) < 0.1
    assert left(still) > 0.7
    capsys.readouterr()
    arguments = [f"--run={run}", f"--data-dir={place.data}"]
    assert identify.run(arguments) == 0
    assert "not a gradient" in capsys.readouterr().out
    found = json.loads((run / "identify.json").read_text())
    questions = [answer["question"] for answer in found["answers"]]
    assert questions == ["interaction", "circulation", "noise", "growth"]
    assert matplotlib.image.imread(run / "plots" / "identify.png")[..., :3].std() > 0.01
    page = tmp_path / "page.html"
    assert report.run([f"--run={run}", f"--out={page}"]) == 0
    assert "What the data can tell" in page.read_text()
    assert "Circulation: not a gradient" in page.read_text()
    assert is_identification(run / "identify.json"), "and so may be replaced"

    (run / "identify.json").write_text("{}")
    assert identify.run(arguments) == 2
    assert "is not a result of experiments.identify" in capsys.readouterr().err
    assert identify.run([*arguments, "--seed-index=1"]) == 2
    assert "seed_index must be below 1" in capsys.readouterr().err
