"""Finding a GPU by name or size, and its properties."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from slr_bench.errors import ConfigError
from slr_bench.predict import device
from slr_bench.predict.device import Bound, Estimate, any_device, find_device, known_devices
from slr_bench.units import GIB, KIB, MIB

MEASURED = {
    "title": "NVIDIA H200, measured",
    "capacity_bytes": 139 * GIB,
    "cublas_workspace_bytes": 33 * MIB,
    "context_bytes": {"median": 500 * MIB, "low": 490 * MIB, "high": 520 * MIB},
}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """The public list, with measured files of an H200 and of an unlisted card."""
    place = tmp_path / "devices"
    place.mkdir()
    (place / "known.json").write_text((files("slr_bench.predict") / "devices" / "known.json").read_text())
    for name in ("h200", "b300"):
        (place / f"{name}.json").write_text(json.dumps(MEASURED))
    monkeypatch.setattr(device, "files", lambda package: tmp_path)


@pytest.mark.parametrize("text", ["rtx4090", "RTX4090", " RTX 4090 ", "rtx_4090", "RTX-4090"])
def test_card_is_found_in_any_spelling(text):
    assert find_device(text).name == "rtx4090"
    assert find_device("A100 80G").name == "a100-80g"


def test_card_has_less_than_its_nominal_memory_and_a_workspace_by_generation():
    hopper, ampere = find_device("h100"), find_device("a100-80g")
    assert 79 * GIB < hopper.capacity_bytes < 80 * GIB
    assert hopper.cublas == Estimate(32 * MIB, 32 * MIB, 32 * MIB)
    assert ampere.cublas == Estimate(8320 * KIB, 8320 * KIB, 8320 * KIB)
    assert not hopper.is_calibrated


@pytest.mark.parametrize(("text", "size"), [("24GiB", 24 * GIB), ("24 gb", 24 * GIB), ("512MiB", 512 * MIB)])
def test_size_means_a_card_of_any_generation(text, size):
    found = find_device(text)
    assert found.capacity_bytes == size
    assert found.cublas == any_device().cublas == Estimate(8320 * KIB, 8320 * KIB, 32 * MIB)


@pytest.mark.parametrize("text", ["24", "24.5", " 24 "])
def test_size_without_a_unit_is_refused_with_the_cure(text):
    with pytest.raises(ConfigError, match=r"--device: size .*24.* has no unit.*6GiB"):
        find_device(text)


def test_card_of_0_bytes_is_refused():
    with pytest.raises(ConfigError, match=r"0 bytes.*24GiB"):
        find_device("0GiB")


@pytest.mark.parametrize(("text", "hint"), [("h2000", "'h200'?"), ("RTX4080Ti", "'rtx2080ti'?"), ("-1GiB", "")])
def test_unknown_card_is_refused_with_the_known_names(text, hint):
    with pytest.raises(ConfigError) as caught:
        find_device(text)
    message = str(caught.value)
    assert hint in message
    assert all(name in message for name in (repr(text), "a100-80g", "h200", "cpu", "24GiB"))
    assert "\n" not in message


def test_measured_file_wins_over_the_public_list(measured):
    found = find_device("H200")
    assert found.is_calibrated
    assert found.title == "NVIDIA H200, measured"
    assert found.capacity_bytes == 139 * GIB
    assert found.cublas == Estimate(33 * MIB, 33 * MIB, 33 * MIB)
    assert found.context == Estimate(500 * MIB, 490 * MIB, 520 * MIB)
    assert find_device("b300").is_calibrated
    assert not find_device("h100").is_calibrated


def test_every_listed_card_has_a_size_and_a_unique_name():
    cards = known_devices()
    assert len(cards) >= 20
    assert len({card.title for card in cards.values()}) == len(cards)
    for name, card in cards.items():
        assert card.name == name == name.lower()
        assert 2 * GIB < card.capacity_bytes < 300 * GIB
        assert card.context.low <= card.context.value <= card.context.high


def test_estimates_add_bound_by_bound():
    assert Estimate(2, 1, 4) + Estimate(20, 10, 40) == Estimate(22, 11, 44)
    assert Estimate(2, 1, 4).to_dict() == {"value": 2, "low": 1, "high": 4}
    assert [Estimate(2, 1, 4).bound(bound) for bound in Bound] == [1, 2, 4]
