"""Tests of the NVML device of torch's ``cuda:N``, for environments that reorder, hide or split devices."""

import pytest
from fake_nvml import GPU_IS_LOST, FakeCard, FakeNvml
from hypothesis import given
from hypothesis import strategies as st

from slr_bench.errors import ProbeUnavailableError
from slr_bench.probes.visible import Device, list_devices, open_device, visible_uuids

EQUAL = [Device(index, f"GPU-{letter}{index}-x", "A") for index, letter in enumerate("abcd")]
MIXED = [Device(0, "GPU-a", "slow"), Device(1, "GPU-b", "fast")]


def visible(text, devices=EQUAL, **environ):
    return visible_uuids(devices, environ if text is None else {"CUDA_VISIBLE_DEVICES": text, **environ})


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (None, [0, 1, 2, 3]),
        ("2,0", [2, 0]),
        (" 1 , 3", [1, 3]),
        ("", []),
        ("-1", []),
        ("1,-1,2", [1]),
        ("1,9,2", [1]),
        ("0,0", []),
        ("GPU-c2-x,GPU-a", [2, 0]),
        ("GPU-", []),
        ("GPU-zz,0", []),
    ],
)
def test_environment_is_read_as_cuda_reads_it(text, places):
    assert visible(text) == [EQUAL[place].uuid for place in places]


@given(st.permutations(range(4)), st.integers(0, 4))
def test_numbers_and_uuids_in_any_order_name_the_same_devices(order, count):
    chosen = order[:count]
    by_number = visible(",".join(map(str, chosen)))
    by_uuid = visible(",".join(EQUAL[place].uuid for place in chosen))
    assert by_number == by_uuid == [EQUAL[place].uuid for place in chosen]


def test_numbers_of_different_cards_need_the_pci_bus_order():
    assert visible("1,0", MIXED, CUDA_DEVICE_ORDER="PCI_BUS_ID") == ["GPU-b", "GPU-a"]
    assert visible("GPU-b,GPU-a", MIXED) == ["GPU-b", "GPU-a"]
    with pytest.raises(ProbeUnavailableError, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        visible("0", MIXED)


CARDS = (FakeCard(uuid="GPU-a", name="slow"), FakeCard(uuid="GPU-b", name="fast", used=90))


def test_uuid_from_torch_decides():
    for environ in ({}, {"CUDA_VISIBLE_DEVICES": "1"}):
        assert open_device(FakeNvml(*CARDS), "b", environ=environ).read().device_bytes == 90


def test_environment_decides_without_a_uuid_and_the_error_names_it():
    same = [FakeCard(uuid="GPU-a"), FakeCard(uuid="GPU-b", used=90)]
    assert open_device(FakeNvml(*same), environ={"CUDA_VISIBLE_DEVICES": "1"}).read().device_bytes == 90
    with pytest.raises(ProbeUnavailableError, match="CUDA_VISIBLE_DEVICES=1 leaves 1 devices"):
        open_device(FakeNvml(*same), ordinal=1, environ={"CUDA_VISIBLE_DEVICES": "1"})


def cut_card():
    card = FakeCard(uuid="GPU-a", is_cut=True)
    return FakeNvml(card, FakeCard(uuid="MIG-m", parent=card, used=90))


def test_mig_instance_is_found_by_its_name_or_by_the_uuid_from_torch():
    assert open_device(cut_card(), "a", environ={"CUDA_VISIBLE_DEVICES": "MIG-m"}).is_mig_instance
    assert open_device(cut_card(), "m", environ={}).is_mig_instance
    assert visible_uuids(list_devices(cut_card()), {"CUDA_VISIBLE_DEVICES": "MIG-m"}) == ["MIG-m"]


@pytest.mark.parametrize("torch_uuid", ["a", None])
def test_mig_parent_does_not_identify_an_instance(torch_uuid):
    with pytest.raises(ProbeUnavailableError, match=r"GPU-a is split into MIG instances.*CUDA_VISIBLE_DEVICES=MIG-"):
        open_device(cut_card(), torch_uuid, environ={})


def test_unknown_uuid_is_reported_as_torch_returned_it():
    with pytest.raises(ProbeUnavailableError, match="NVML device GPU-zz: Not Found"):
        open_device(FakeNvml(*CARDS), "zz", environ={})


def test_unreadable_card_does_not_shift_the_others():
    lost = FakeCard(uuid="GPU-a", refused={"nvmlDeviceGetUUID": GPU_IS_LOST})
    library = FakeNvml(lost, FakeCard(uuid="GPU-b"))
    assert [device.number for device in list_devices(library)] == [1]
    assert open_device(library, environ={"CUDA_VISIBLE_DEVICES": "1"}).read().device_bytes == 700
    with pytest.raises(ProbeUnavailableError, match="GPU is lost"):
        list_devices(FakeNvml(refused={"nvmlDeviceGetCount": GPU_IS_LOST}))
