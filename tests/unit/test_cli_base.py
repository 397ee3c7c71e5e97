"""A command as it is kept: repeatable, and nobody's directories in it."""

import pytest

from slr_bench.record import public_command


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["run", "configs/a.yml", "--set", "training.batch_size=4"], "run configs/a.yml --set training.batch_size=4"),
        (["run", "{here}/configs/a.yml", "--device", "cpu"], "run configs/a.yml --device cpu"),
        (["run", "{here}/b/../a.yml", "--out={here}/reports/x"], "run a.yml --out=reports/x"),
        (["run", "/home/eve/my grids/a.yml", "--out", "/tmp/eve/run"], "run a.yml --out run"),
        (["run", "../../eve/a.yml"], "run a.yml"),
        (["run", "~eve/a.yml"], "run a.yml"),
        (["run", "a.yml", "--set", "data.dir=/home/eve/signs"], "run a.yml --set data.dir=signs"),
        (["run", "a.yml", "--set", "x.y=[/home/eve/a, /home/eve/b]"], "run a.yml --set 'x.y=[a, b]'"),
        (["run", "a.yml", "--set", "model.ratio=1/2"], "run a.yml --set model.ratio=1/2"),
    ],
)
def test_no_directory_outside_the_working_one_is_kept(arguments, kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert public_command([word.format(here=tmp_path) for word in arguments]) == f"slr-bench {kept}"
