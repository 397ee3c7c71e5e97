"""The files of the wheel, and its commands in a foreign project that has its own package ``models``."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
OPTIONAL = ("pandas", "torchvision", "av")
BENCH = """
from pydantic import BaseModel, ConfigDict

from models import WIDTH
from slr_bench.grid.training_step import TrainingStep
from slr_bench.grid.workload import WorkloadSpec


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    batch_size: int = 8


def build(settings, context):
    import torch

    def batch():
        return torch.ones(settings.batch_size, WIDTH), torch.zeros(settings.batch_size, dtype=torch.int64)

    model = context.place(torch.nn.Linear(WIDTH, 3))
    optimizer = torch.optim.SGD(model.parameters())
    return TrainingStep(context, model, optimizer, batch, torch.nn.functional.cross_entropy)


step = WorkloadSpec(name="train_step", settings=Settings, build=build, packages=("bench", "models"))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"
    shutil.copytree(ROOT / "slr_bench", source / "slr_bench", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("models", "benchmarks", "tests"):
        (source / name).mkdir()
        (source / name / "__init__.py").write_text("")
    command = [sys.executable, "-W", "ignore", "-c", BUILD, str(work)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)
    return next(work.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Return an interpreter with the wheel and its required dependencies, without this checkout."""
    work = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", work / "venv"], check=True, timeout=60)
    own = next((work / "venv").glob("lib/python*/site-packages"))
    shared = work / "shared"
    shared.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        distribution = entry.name.partition("-")[0].partition(".")[0]
        if "slr_bench" not in entry.name and distribution not in OPTIONAL:
            (shared / entry.name).symlink_to(entry)
    (own / "shared.pth").write_text(f"{shared}\n")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(own)
    return work / "venv" / "bin" / "python"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a repository that has its own package ``models`` and names its workload only in its project file."""
    root = tmp_path_factory.mktemp("foreign")
    for name, text in {
        "pyproject.toml": '[tool.slr-bench.workloads]\ntrain_step = "bench:step"\n',
        "bench.py": BENCH,
        "models/__init__.py": "WIDTH = 4\n",
        "grids/grid.yml": "arms: {small: {batch_size: 2}, large: {}}\nrepeats: 1\nsides: 2\n",
        "plain.yml": "batch_size: 4\n",
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def command(python, tmp_path):
    """``command("run", ...)`` runs the installed command in a directory of its own, outside both projects."""

    for name in ("models.py", "queue.py", "bench.py"):  # a module of this name is the project's, or of Python
        (tmp_path / name).write_text("raise RuntimeError('a file of the working directory was imported')")

    def run(*arguments):
        hidden = ("PYTHONPATH", "SLR_BENCH_PROJECTS")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        words = [python, "-m", "slr_bench", *map(str, arguments)]
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return run


def test_wheel_holds_one_package_and_registers_no_workload(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition("/")[0] for name in archive.namelist()}
        (entry_points,) = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
        text = archive.read(entry_points).decode()
    assert {name for name in names if not name.endswith(".dist-info")} == {"slr_bench"}
    assert "[pytest11]" in text
    assert "slr_bench.workloads" not in text


def test_foreign_project_with_its_own_models_is_measured_without_installing_it(command, project, tmp_path):
    done = command("run", project / "grids" / "grid.yml", "--fake", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out" / "records").iterdir())) == 4
    assert (tmp_path / "out" / "report.html").is_file()
    exported = command("report", "out", "--csv", "x.csv")
    assert exported.returncode == 2
    assert exported.stderr == "slr-bench: tables need pandas, which is not installed; pip install 'slr-bench[tables]'\n"


@pytest.mark.slow
def test_other_commands_need_no_optional_package(command, project, tmp_path):
    grid = project / "grids" / "grid.yml"
    assert command("run", grid, "--fake", "--out", "out").returncode == 0
    for words in (
        ["report", "out"],
        ["compare", "out"],
        ["gate", "out", "--rule", "peak_tensor_bytes:0%"],
        ["profile", grid, "--arm", "small", "--fake", "--out", "profile"],
        ["profile", project / "plain.yml", "--fake", "--out", "plain"],
        ["predict", grid, "--arm", "small", "--device", "24GiB"],
        ["plan", grid, "--arm", "small", "--device", "24GiB"],
        ["doctor"],
    ):
        done = command(*words)
        assert done.returncode == 0, (words, done.stderr)
