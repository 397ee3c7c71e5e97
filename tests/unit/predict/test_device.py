"""Which GPU is meant, and what it has."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from slr_bench.errors import ConfigError
from slr_bench.predict import device
from slr_bench.predict.device import Estimate, any_device, find_device, known_devices
from slr_bench.units import GIB, KIB, MIB

MEASURED = {
    "title": "NVIDIA H200, measured",
    "capacity_bytes": 139 * GIB,
    "cublas_workspace_bytes": 33 * MIB,
    "context_bytes": {"median": 500 * MIB, "low": 490 * MIB, "high": 520 * MIB},
}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """The public list, and beside it what was measured on an H200 and on a card that nobody lists."""
    place = tmp_path / "devices"
    place.mkdir()
    (place / "known.json").write_text((files("slr_bench.predict") / "devices" / "known.json").read_text())
    for name in ("h200", "b300"):
        (place / f"{name}.json").write_text(json.dumps(MEASURED))
    monkeypatch.setattr(device, "files", lambda package: tmp_path)


@pytest.mark.parametrize("text", ["rtx4090", "RTX4090", " RTX 4090 ", "rtx_4090", "RTX-4090"])
def test_a_card_is_found_however_it_is_written(text):
    assert find_device(text).name == "rtx4090"
    assert find_device("A100 80G").name == "a100-80g"


def test_a_card_has_less_than_its_box_says_and_its_class_decides_the_workspace():
    hopper, ampere = find_device("h100"), find_device("a100-80g")
    assert 79 * GIB < hopper.capacity_bytes < 80 * GIB
    assert hopper.cublas == Estimate(32 * MIB, 32 * MIB, 32 * MIB)
    assert ampere.cublas == Estimate(8320 * KIB, 8320 * KIB, 8320 * KIB)
    assert not hopper.is_calibrated


@pytest.mark.parametrize(("text", "size"), [("24GiB", 24 * GIB), ("24 gb", 24 * GIB), ("512MiB", 512 * MIB)])
def test_a_size_is_a_card_of_any_class(text, size):
    found = find_device(text)
    assert found.capacity_bytes == size
    assert found.cublas == any_device().cublas == Estimate(8320 * KIB, 8320 * KIB, 32 * MIB)


@pytest.mark.parametrize("text", ["24", "24.5", " 24 "])
def test_a_size_without_a_unit_is_refused_with_the_cure(text):
    with pytest.raises(ConfigError, match=r"--device: size .*24.* has no unit.*6GiB"):
        find_device(text)


def test_a_card_of_no_bytes_is_refused():
    with pytest.raises(ConfigError, match=r"0 bytes.*24GiB"):
        find_device("0GiB")


@pytest.mark.parametrize(("text", "hint"), [("h2000", "'h200'?"), ("RTX4080Ti", "'rtx2080ti'?"), ("-1GiB", "")])
def test_an_unknown_card_is_refused_with_those_that_are_known(text, hint):
    with pytest.raises(ConfigError) as caught:
        find_device(text)
    message = str(caught.value)
    assert hint in message
    assert all(name in message for name in (repr(text), "a100-80g", "h200", "cpu", "24GiB"))
    assert "\n" not in message


def test_what_was_measured_wins_over_the_list(measured):
    found = find_device("H200")
    assert found.is_calibrated
    assert found.title == "NVIDIA H200, measured"
    assert found.capacity_bytes == 139 * GIB
    assert found.cublas == Estimate(33 * MIB, 33 * MIB, 33 * MIB)
    assert found.context == Estimate(500 * MIB, 490 * MIB, 520 * MIB)
    assert find_device("b300").is_calibrated
    assert not find_device("h100").is_calibrated


def test_every_listed_card_has_a_size_and_a_name_of_its_own():
    cards = known_devices()
    assert len(cards) >= 20
    assert len({card.title for card in cards.values()}) == len(cards)
    for name, card in cards.items():
        assert card.name == name == name.lower()
        assert 2 * GIB < card.capacity_bytes < 300 * GIB
        assert card.context.low <= card.context.value <= card.context.high


def test_estimates_add_end_by_end():
    assert Estimate(2, 1, 4) + Estimate(20, 10, 40) == Estimate(22, 11, 44)
    assert Estimate(2, 1, 4).as_json() == {"value": 2, "low": 1, "high": 4}
