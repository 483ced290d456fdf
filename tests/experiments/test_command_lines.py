"""The scripts' flags: complete, documented, and answered before anything heavy is loaded."""

import dataclasses
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import evaluate, train
from experiments.populations.settings import EvaluateSettings, TrainSettings
from jkonet_star.settings import FeatureSettings, InternalSettings, NetworkSettings

# The packages under test: of this tree, or of an installed wheel.
ROOT = Path(train.__file__).parents[1]
SETTINGS = {
    "train": (TrainSettings, InternalSettings, NetworkSettings, FeatureSettings),
    "evaluate": (EvaluateSettings,),
}
HEAVY = (
    "{'jax', 'jaxlib', 'numpy', 'flax', 'optax', 'ott', 'orbax', 'sklearn', 'scipy', 'matplotlib',"
    " 'tensorboardX', 'tqdm', 'wandb'}"
)


@pytest.mark.parametrize("script", [train, evaluate])
def test_help_names_every_setting_its_meaning_and_an_example(script, capsys):
    assert script.run(["--helpfull"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    name = script.__name__.rpartition(".")[2]
    fields = [f.name for kind in SETTINGS[name] for f in dataclasses.fields(kind)]
    assert len(fields) == len(set(fields)), "two settings cannot share a flag"
    for field in fields:
        spelled = field.replace("_", "-")
        assert f"\n  --{spelled}=" in out or f"\n  --[no]{spelled}\n" in out
        assert script.FLAGS[field].help, field
    assert f"python -m experiments.{name} --" in out
    assert "--[no]debug" in out
    assert max(map(len, out.splitlines())) <= 106


@pytest.mark.parametrize("script", ["train", "evaluate"])
@pytest.mark.parametrize("argument", ["--help", "--runn=demo", "--eval=test", "stray"])
def test_help_and_mistakes_are_answered_at_once(script, argument, tmp_path):
    program = (
        f"import sys; from experiments.{script} import run; status = run([sys.argv[1]]); "
        f"heavy = {HEAVY} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else status)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", program, argument],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == (0 if argument == "--help" else 2), done.stderr
    if argument != "--help":
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
    # Of the processor, so that a busy machine does not decide.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0
    assert not list(tmp_path.iterdir())
