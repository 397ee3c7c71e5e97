"""Finding a GPU by name or size, and its properties."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from step_profiles import step_profile

from slr_bench.errors import ConfigError
from slr_bench.predict import device
from slr_bench.predict.device import Bound, Estimate, any_device, choose_device, find_device, known_devices
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
    device._public_list.cache_clear()


@pytest.mark.parametrize("text", ["rtx4090", "RTX4090", " RTX 4090 ", "rtx_4090", "RTX-4090"])
def test_card_is_found_in_any_spelling(text):
    assert find_device(text).name == "rtx4090"
    assert find_device("A100 80G").name == "a100-80g"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "rtx4060-laptop"),
        ("NVIDIA GeForce RTX 4060 Ti 16 GB", "rtx4060ti-16g"),
        ("NVIDIA A100-SXM4-40GB", "a100-40g"),
        ("Tesla T4", "t4"),
        ("Jetson AGX Orin 64GB", "agx-orin-64g"),
    ],
)
def test_title_of_a_card_is_found_like_its_name(text, name):
    assert find_device(text).name == name


def test_every_title_means_its_own_card():
    assert [find_device(card.title).name for card in known_devices().values()] == list(known_devices())


def test_memory_of_a_card_can_be_limited_and_a_size_alone_is_a_card():
    card = choose_device("rtx3060", "6GiB")
    assert (card.capacity_bytes, card.context) == (6 * GIB, find_device("rtx3060").context)
    assert choose_device(None, "24GiB") == find_device("24GiB")
    assert choose_device("h200", None) == find_device("h200")
    assert choose_device(None, None) == any_device()
    with pytest.raises(ConfigError, match=r"--gpu-memory 13GiB is more than the 11.66 GiB of .*RTX 3060"):
        choose_device("rtx3060", "13GiB")


@pytest.mark.parametrize(
    ("name", "expected_mib", "with_cudnn_mib"),
    [
        ("rtx4060", (350, 250, 450), (450, 250, 770)),
        ("8GiB", (350, 250, 450), (450, 250, 770)),
        ("a100-40g", (1430, 1330, 1530), (1750, 1570, 1950)),
        ("h100", (1430, 400, 1700), (1750, 400, 2120)),
        ("80GiB", (1430, 400, 1700), (1750, 400, 2120)),
        ("24GiB", (350, 250, 1700), (450, 250, 2120)),
    ],
)
def test_context_depends_on_the_class_of_card_and_on_cudnn(name, expected_mib, with_cudnn_mib):
    card = find_device(name)
    assert card.context_of(step_profile()) == Estimate(*(size * MIB for size in expected_mib))
    assert card.context_of(step_profile(libraries=["cudnn"])) == Estimate(*(size * MIB for size in with_cudnn_mib))


def test_unknown_figure_of_a_data_sheet_has_a_reason_and_a_stand_in():
    entries = json.loads((files("slr_bench.predict") / "devices" / "known.json").read_text())["devices"]
    without = {name: entry for name, entry in entries.items() if None in entry.values()}
    assert without
    for name, entry in without.items():
        assert "not known" in entry["note"]
        assert find_device(name).rates == find_device("rtx3060").rates


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


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("h2000", "; did you mean 'h200' (139.70 GiB)?"),
        ("RTX4080Ti", "; did you mean 'rtx2080ti' (10.57 GiB)?"),
        ("A100", "; did you mean 'a100-40g' (39.38 GiB) or 'a100-80g' (79.14 GiB)?"),
        ("RTX 4060 Ti", "; did you mean 'rtx4060ti-8g' (7.63 GiB) or 'rtx4060ti-16g' (15.60 GiB)?"),
        ("-1GiB", ""),
        ("", ""),
    ],
)
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
    assert found.context_of(step_profile(libraries=["cudnn"])) == found.context, "a measured context has all libraries"
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
