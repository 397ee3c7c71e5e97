"""Metrics and records are checked when they are made and cannot be changed; commands lose their directories."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from slr_bench.record import SCHEMA, Metric, Outcome, Phase, Record, RunEvent, public_command

BYTES = Metric(value=4096, unit="bytes", source="cpu-real", quality="exact")


def record(**changes) -> Record:
    values = {
        "cell_id": "0123456789ab",
        "repeat": 2,
        "workload": "train_step",
        "setting": {"training": {"batch_size": 4}},
        "outcome": "ok",
        "reason": None,
        "environment": {"torch": "2.15"},
        "metrics": {"peak_tensor_bytes": BYTES},
        "phases": {"load": {"duration_s": 0.5, "count": 1}},
        "started_at": "2026-01-01T00:00:00+00:00",
        "duration_s": 1.5,
    }
    return Record.model_validate(values | changes)


@settings(deadline=None)
@given(
    st.none() | st.integers() | st.floats() | st.sampled_from([1e100, 1e101, -1e-100, 1e-101, 10**400, -0.0]),
    st.none() | st.text(max_size=5),
    st.sampled_from(["exact", "sampled", "measured", "estimated", "unavailable"]),
)
def test_metric_is_a_finite_value_or_null_with_a_reason(value, reason, quality):
    """A value is 0 or between 1e-100 and 1e100, so that ratios are finite. Bytes are not negative."""
    is_measurable = value is not None and (value == 0 or 1e-100 <= value <= 1e100)
    is_reading = is_measurable and reason is None and quality != "unavailable"
    is_null = value is None and reason is not None and quality == "unavailable"
    try:
        Metric(value=value, unit="bytes", source="s", quality=quality, reason=reason)
        accepted = True
    except ValidationError:
        accepted = False
    assert accepted == (is_reading or is_null)


def test_differences_may_be_negative_and_bytes_may_not():
    assert Metric(value=-0.01, unit="ratio", source="s", quality="exact").value == -0.01
    with pytest.raises(ValidationError, match="value -5 is less than no byte; what could not be read is null"):
        Metric(value=-5, unit="bytes", source="s", quality="exact")


def test_unavailable_metric_keeps_its_reason():
    metric = Metric.unavailable("J", "NVML", "no GPU")
    assert (metric.value, metric.unit, metric.quality, metric.reason) == (None, "J", "unavailable", "no GPU")


def test_unknown_unit_is_refused():
    with pytest.raises(ValidationError, match="unit"):
        Metric(value=1, unit="MB", source="s", quality="exact")


def test_integer_stays_an_integer_in_json():
    """A byte count of 2**53 + 1 has no exact float."""
    metric = BYTES.model_copy(update={"value": 2**53 + 1})
    assert Metric.model_validate_json(metric.model_dump_json()).value == 2**53 + 1


@pytest.mark.parametrize("thing", [BYTES, Phase(duration_s=1.0, count=1), record()])
def test_records_and_metrics_are_immutable(thing):
    field = next(iter(type(thing).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(thing, field, None)


def test_outcomes_are_the_documented_ones():
    documented = "ok oom_gpu oom_host timeout crash skipped_dominated invalid_env unsupported"
    assert [str(outcome) for outcome in Outcome] == documented.split()


EVENT = RunEvent(step=3, kind="halved", text="out of memory: 8 -> 4", changes_batch=True, used_bytes=5)


def test_events_are_kept_and_a_record_without_them_is_as_before():
    made = record(events=[EVENT])
    assert Record.model_validate_json(made.model_dump_json(by_alias=True)) == made
    assert json.loads(made.model_dump_json())["events"][0]["own_bytes"] is None
    assert {"events", "marks"}.isdisjoint(record().model_dump())
    assert record().events == ()
    assert "marks" in record(marks=["swapping"]).model_dump()


@pytest.mark.parametrize("wrong", [{"step": -1}, {"used_bytes": -1}, {"kind": None}])
def test_event_with_an_impossible_value_is_refused(wrong):
    with pytest.raises(ValidationError):
        RunEvent.model_validate(EVENT.model_dump() | wrong)


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("reason", [None, "because"])
def test_record_has_a_reason_exactly_if_it_failed(outcome, reason):
    if (outcome is Outcome.OK) == (reason is None):
        assert record(outcome=outcome, reason=reason).outcome is outcome
    else:
        with pytest.raises(ValidationError, match="reason"):
            record(outcome=outcome, reason=reason)


def test_record_is_equal_after_json_and_has_the_documented_keys():
    text = record().model_dump_json(by_alias=True)
    assert Record.model_validate_json(text) == record()
    documented = "schema cell_id side repeat setting outcome reason environment metrics phases started_at duration_s"
    assert {*documented.split()} <= json.loads(text).keys()
    assert json.loads(text)["schema"] == SCHEMA


@pytest.mark.parametrize("change", [{"schema": 2}, {"side": "c"}, {"outcome": "fine"}, {"host": "x"}])
def test_record_with_other_fields_is_refused(change):
    with pytest.raises(ValidationError):
        record(**change)


def test_record_has_a_name_and_gives_values_of_metrics():
    assert record(side="b").name == "0123456789ab-b-2"
    assert record().value("peak_tensor_bytes") == 4096
    assert record().value("energy_j") is None


@pytest.mark.parametrize("name", ["peak_tensor_bytes", "peak_allocated_bytes", "peak_reserved_bytes"])
def test_peak_of_a_phase_is_not_negative(name):
    assert getattr(Phase(duration_s=1, count=1, **{name: 0}), name) == 0
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Phase(duration_s=1, count=1, **{name: -1})


def test_only_phases_on_a_gpu_are_written_with_torchs_peaks():
    on_cpu = Phase(duration_s=1.0, count=1, peak_tensor_bytes=7)
    assert on_cpu.model_dump() == {"duration_s": 1.0, "count": 1, "peak_tensor_bytes": 7}
    on_gpu = Phase(duration_s=1.0, count=1, peak_allocated_bytes=0, peak_requested_bytes=8, peak_reserved_bytes=9)
    assert on_gpu.model_dump()["peak_allocated_bytes"] == 0
    assert Phase.model_validate_json(on_gpu.model_dump_json()) == on_gpu


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
def test_directories_outside_the_working_directory_are_removed(arguments, kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert public_command([word.format(here=tmp_path) for word in arguments]) == f"slr-bench {kept}"
