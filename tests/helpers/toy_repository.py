"""A git repository with a workload of its own, whose figures a commit can change."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SPEC = """
from pydantic import BaseModel, ConfigDict

from slr_bench.grid.workload import WorkloadSpec


print("whoever imports me is greeted")


class Toy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    size: int = 1000


def build(settings, context):
    from toy.work import Work

    return Work(settings)


toy = WorkloadSpec(name="toy", settings=Toy, build=build, packages=("toy",))
"""
WORK = """
import torch


class Work:
    samples_per_step = 1

    def __init__(self, settings):
        self.size = settings.size

    def load(self):
        pass

    def step(self):
        torch.zeros(self.size + MORE, dtype=torch.uint8).add_(1)

    def tensors(self):
        return {}

    def metrics(self):
        return {}
"""
FIGURES = {"MORE": 0, "STEP_S": 1.0, "ENDING": "ok"}
GRID = "workload: toy\narms: {small: {}, large: {size: 2000}}\nrepeats: 2\ndevice: cpu\ninvalid_reruns: 0\n"


class ToyRepository:
    """Commits of the workload ``toy``. ``figures``: bytes more in a step; its time and its end in a `tree_server`."""

    def __init__(self, top: Path) -> None:
        self.top = top
        top.mkdir()
        self.git("init", "-q", "-b", "main")
        for name, text in {
            "toy/__init__.py": "",
            "toy/spec.py": SPEC,
            "toy-0.dist-info/METADATA": "Metadata-Version: 2.1\nName: toy\nVersion: 0\n",
            "toy-0.dist-info/entry_points.txt": "[slr_bench.workloads]\ntoy = toy.spec:toy\n",
            "grid.yml": GRID,
            ".gitignore": "__pycache__/\nignored/\n",
        }.items():
            self.write(name, text)
        self.figures()

    def write(self, name: str, text: str) -> None:
        path = self.top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def figures(self, **changed: object) -> None:
        lines = [f"{name} = {value!r}" for name, value in (FIGURES | changed).items()]
        self.write("toy/figures.py", "\n".join(lines) + "\n")
        self.write("toy/work.py", "from toy.figures import MORE\n" + WORK)

    def git(self, *arguments: str) -> str:
        identity = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        quiet = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(
            ["git", *arguments], cwd=self.top, env={**os.environ, **identity, **quiet}, capture_output=True, check=True
        )
        return done.stdout.decode().strip()

    def commit(self, tag: str) -> str:
        """Commit everything under a tag; gives the hash."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", tag)
        self.git("tag", tag)
        return self.git("rev-parse", "HEAD")

    def state(self) -> dict[str, bytes]:
        """Every file of the repository, its index, refs and the rest of .git included; bytecode is none of it."""
        paths = (path for path in self.top.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {str(path.relative_to(self.top)): path.read_bytes() for path in paths}
