"""The doctor's table: whole at 80 columns, a cure below its lack."""

import io

from rich.console import Console

from slr_bench.doctor.gpu import Finding
from slr_bench.report.views.doctor import findings_json, findings_table

FOUND = [
    Finding("Python", "ok", "3.12"),
    Finding("GPU 0 NVIDIA GeForce RTX 4090 Laptop GPU", "lacking", "temperature unknown", "ask as root " * 9),
    Finding("NVML", "not here", "\x1b[31mno driver", "install it"),
]


def test_it_is_whole_at_80_columns_and_prints_no_foreign_escapes():
    console = Console(file=io.StringIO(), width=80)
    console.print(findings_table(FOUND))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("→") == 2
    assert "\x1b" not in text
    assert text.count("root") == 9


def test_json_has_null_for_no_cure_and_counts_the_lacks():
    found = findings_json(FOUND)
    assert found["lacking"] == 1
    assert found["findings"][0] == {"name": "Python", "state": "ok", "detail": "3.12", "cure": None}
