import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

import experiments
from data_generation.populations.settings import DataSettings
from experiments.populations.learning_settings import LearningSettings
from experiments.sweeps.folder import SweepFolder
from experiments.sweeps.jobs import carry_out_in_jobs, shares
from experiments.sweeps.settings import Cell, ExecutionSettings
from jkonet_star.settings import FeatureSettings

# The packages under test: of this tree, or of an installed wheel.
ROOT = Path(experiments.__file__).parents[1]
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")


def cells(path, potentials=("sphere", "relu"), seeds=(0, 1), n_particles=60):
    learning = LearningSettings(features=FeatureSettings(degree=2, radial="none"))
    return [
        Cell(
            data=DataSettings(
                potential=potential,
                n_particles=n_particles,
                n_timesteps=2,
                n_gmm_components=0,
                data_dir=str(path / "data"),
            ),
            data_dir=str(path / "data"),
            solver="jkonet-star-linear-potential",
            seed=seed,
            learning=learning,
        )
        for potential in potentials
        for seed in seeds
    ]


def test_a_dataset_stays_in_one_job(tmp_path):
    runs = cells(tmp_path, ("sphere", "relu", "flat", "moon", "beale"), range(3))
    for jobs in (1, 2, 3, 5, 8):
        parts = shares(runs, jobs)
        assert len(parts) == min(jobs, 5)
        assert sorted(c.name for part in parts for c in part) == sorted(c.name for c in runs)
        datasets = [{c.dataset_name for c in part} for part in parts]
        assert sum(map(len, datasets)) == 5
        assert max(map(len, parts)) - min(map(len, parts)) <= 3


def test_jobs_do_what_the_sweep_does(tmp_path):
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    folder = SweepFolder(tmp_path / "sweep", ExecutionSettings(jobs=2))
    runs = cells(tmp_path)
    told = []
    # Submitit's own executor of this process: its jobs run where a test can see them.
    carry_out_in_jobs(runs, folder, told.append, cluster="debug")
    assert sorted(c.name for c in told) == sorted(c.name for c in runs)
    assert all(folder.finished(cell) for cell in runs)


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A cluster of this machine."""
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"no SLURM to start here: {', '.join(missing) or 'not root'}")
    host = socket.gethostname().split(".")[0]
    (tmp_path / "key").write_bytes(os.urandom(1024))
    (tmp_path / "key").chmod(0o400)
    munge = {
        "key-file": "key",
        "socket": "socket",
        "pid-file": "munge.pid",
        "log-file": "munge.log",
        "seed-file": "seed",
    }
    (tmp_path / "slurm.conf").write_text(
        f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={_free_port()}
SlurmdPort={_free_port()}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={tmp_path}/socket
CredType=cred/munge
StateSaveLocation={tmp_path}/state
SlurmdSpoolDir={tmp_path}/spool
SlurmctldPidFile={tmp_path}/slurmctld.pid
SlurmdPidFile={tmp_path}/slurmd.pid
SlurmctldLogFile={tmp_path}/slurmctld.log
SlurmdLogFile={tmp_path}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0
KillWait=1
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
    )
    for name in ("state", "spool"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    flags = [f"--{flag}={tmp_path / file}" for flag, file in munge.items()]
    daemons = [
        subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command, more in (
            (["munged", "--force", "--foreground"], flags),
            (["slurmctld", "-D"], []),
            (["slurmd", "-D"], []),
        )
        if not time.sleep(0.5)
    ]
    try:
        for _ in range(60):
            state = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
            if state.stdout.strip() == "idle":
                break
            time.sleep(0.5)
        else:
            pytest.skip(f"SLURM does not start here: {state.stderr.strip() or state.stdout}")
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=20)


@pytest.mark.slow
def test_on_a_real_cluster_a_killed_job_is_replaced(tmp_path, slurm):
    execution = ExecutionSettings(
        executor="slurm", jobs=2, job_cores=1, job_memory=0.4, time_limit=5
    )
    folder = SweepFolder(tmp_path / "sweep", execution)
    runs = cells(tmp_path, ("sphere",), (0,)) + cells(tmp_path, ("relu",), (0,), n_particles=3500)
    told, killed = [], []

    def killing(cell):
        # The small run is over, the large one usually not, and its job does not come to its end.
        told.append(cell)
        if len(told) == 1:
            subprocess.run(["scancel", "--signal=KILL", "--full", "--user=root"], check=True)
            # Between the order and its execution a run may come to its end after all.
            for _ in range(60):
                if not subprocess.run(["squeue", "-h"], capture_output=True, check=True).stdout:
                    break
                time.sleep(0.5)
            killed.extend(cell for cell in runs if not folder.finished(cell))

    carry_out_in_jobs(runs, folder, killing)
    assert sorted(c.name for c in told) == sorted(c.name for c in runs)
    assert all(folder.finished(cell) for cell in runs)
    assert told[0] == runs[0]
    assert len(list((tmp_path / "sweep" / "jobs").glob("*_submitted.pkl"))) == 2 + len(killed)
