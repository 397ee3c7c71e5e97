"""Verdicts on hand-made measurements, and the limits of their growth."""

import pytest

from slr_bench.errors import ConfigError
from slr_bench.pytest_plugin.check import check, different_machine, finding_lines, parse_byte_limit

TEST = "tests/test_net.py::test_step[4]"
VERSIONS = {
    "torch": "2.14.1",
    "torchvision": "0.29.1",
    "trace_rules": 2,
    "isolation": "pytest",
    "system": "Linux x86_64",
}


def metric(value, source="cpu-real", **more):
    return {"value": value, "unit": "bytes", "source": source, "quality": "exact"} | more


def saved(value=1000, test=TEST, versions=VERSIONS, **more):
    """A benchmark as pytest-benchmark saves it."""
    info = {"metrics": {"peak_tensor_bytes": metric(value, **more)}, "environment": versions}
    return {test: {"fullname": test, "stats": {}, "extra_info": info}}


def now(value=1000, test=TEST, **more):
    info = saved(value, test, **more)[test]["extra_info"]
    return {test: {"fullname": test, **info}}


def verdict(measured, baseline, *limits, tests=None, allowed=()):
    limits = [parse_byte_limit(text) for text in limits or ("peak_tensor_bytes:0%",)]
    return list(check(tests or measured, measured, baseline, limits, allowed))


def test_equal_passes_and_half_a_percent_more_fails():
    (finding,) = verdict(now(1000), saved(1000))
    assert (finding.kind, finding.is_broken) == ("equal", False)
    (finding,) = verdict(now(1005), saved(1000))
    assert (finding.kind, finding.is_broken) == ("more", True)
    assert finding.text == "peak_tensor_bytes 1000 B -> 1005 B (+5 bytes, +0.500%), limit 0%"


def test_growth_within_the_limit_is_reported_and_passes():
    (finding,) = verdict(now(1005), saved(1000), "peak_tensor_bytes:0.5%")
    assert (finding.kind, finding.is_broken) == ("within", False)


def test_less_passes_and_asks_for_a_new_baseline():
    findings = verdict(now(999), saved(1000))
    assert [finding.is_broken for finding in findings] == [False]
    assert "save a new one" in list(finding_lines(findings))[-1][0]


def test_benchmark_that_the_baseline_lacks_fails_unless_allowed():
    (finding,) = verdict(now(), {})
    assert (finding.kind, finding.is_broken) == ("missing", True)
    assert verdict(now(), {}, allowed=["tests/test_net.py::test_step[4]"]) == []
    assert verdict(now(), {}, allowed=["*::test_step*"]) == []
    assert verdict(now(), {}, allowed=["*::test_step[5]"]) != []


def test_test_that_moved_is_named():
    (finding,) = verdict(now(), saved(test="tests/old/test_net.py::test_step[4]"))
    assert finding.text == "not in the baseline; it has tests/old/test_net.py::test_step[4]"


def test_baseline_without_the_metric_fails_unless_allowed():
    bare = {TEST: {"fullname": TEST, "stats": {}, "extra_info": {}}}
    (finding,) = verdict(now(), bare)
    assert (finding.kind, finding.text) == ("missing", "the baseline has no peak_tensor_bytes of it")
    assert verdict(now(), bare, allowed=["*"]) == []


def test_bytes_that_are_no_longer_measured_fail():
    (finding,) = verdict({}, saved(), tests=[TEST])
    assert (finding.kind, finding.is_broken) == ("not comparable", True)


def test_unmeasured_metric_is_refused_with_the_nearest_name():
    (finding,) = verdict(now(), saved(), "peak_tensor_byte:0%")
    assert finding.text == "peak_tensor_byte was not measured; did you mean 'peak_tensor_bytes'?"


@pytest.mark.parametrize("key", ["torch", "torchvision", "trace_rules"])
def test_other_versions_do_not_compare_even_when_equal(key):
    (finding,) = verdict(now(), saved(versions=VERSIONS | {key: "0"}))
    assert (finding.kind, finding.is_broken) == ("not comparable", True)
    assert f"need the same {key}, got 0 against {VERSIONS[key]}" in finding.text


def test_another_processor_compares():
    (finding,) = verdict(now(), saved(versions=VERSIONS | {"cpu": "other", "cores": 64}))
    assert finding.kind == "equal"


def test_other_meters_do_not_compare():
    (finding,) = verdict(now(source="cuda-real"), saved())
    assert finding.text == "different meters do not compare: cpu-real against cuda-real"


def test_unknown_value_fails_with_its_reason():
    unknown = {"value": None, "quality": "unavailable", "reason": "no /proc here"}
    (finding,) = verdict({TEST: {**now()[TEST], "metrics": {"peak_tensor_bytes": metric(0) | unknown}}}, saved())
    assert (finding.kind, finding.text) == ("not comparable", "no /proc here")


def test_unreadable_baseline_is_reported_in_one_line():
    (finding,) = verdict(now(), saved("much"))
    assert finding.is_broken
    assert "the baseline's metrics cannot be read: peak_tensor_bytes.value" in finding.text


def test_growth_from_zero_bytes_exceeds_every_percentage():
    (finding,) = verdict(now(1), saved(0), "peak_tensor_bytes:100%")
    assert (finding.kind, finding.text) == (
        "more", "peak_tensor_bytes 0 B -> 1 B (+1 bytes, from nothing), limit 100%"
    )  # fmt: skip


def test_benchmarks_with_the_same_finding_share_a_line():
    old = VERSIONS | {"torch": "2.11"}
    tests = [f"test_{number}" for number in range(9)]
    measured = {name: value for test in tests for name, value in now(test=test).items()}
    baseline = {name: value for test in tests for name, value in saved(test=test, versions=old).items()}
    lines = [line for line, _ in finding_lines(verdict(measured, baseline))]
    assert lines[0].startswith("FAILED test_0 and 8 more: traced values need the same torch")
    assert lines[1] == "0 equal, 9 not"


def test_text_of_a_foreign_file_becomes_one_printable_line():
    findings = verdict(now(), saved(versions=VERSIONS | {"torch": "2.11\n\x1b[2Jx" + "y" * 10_000}))
    (line, *_) = [line for line, _ in finding_lines(findings)]
    assert line.isprintable()
    assert len(line) < 500


def test_machines_differ_by_the_facts_that_decide_times():
    here = {"node": "a", "system": "Linux", "cpu": {"brand_raw": "x", "count": 2, "hz_actual": 1}}
    assert different_machine(here, here | {"release": "6", "cpu": here["cpu"] | {"hz_actual": 2}}) is None
    assert different_machine(here, here | {"cpu": {"brand_raw": "y", "count": 2}}) == "cpu.brand_raw 'x' against 'y'"
    assert different_machine(here, {}) is not None


@pytest.mark.parametrize(
    ("text", "base", "most"),
    [
        ("peak_tensor_bytes:0%", 1000, 1000),
        ("peak_tensor_bytes:0.5%", 1000, 1005),
        ("peak_tensor_bytes:2 %", 10**15, 102 * 10**13),
        ("peak_tensor_bytes:0%", 0, 0),
        ("peak_tensor_bytes:50%", 0, 0),
        ("rss_over_start_bytes:1MiB", 5, 5 + 2**20),
        ("rss_over_start_bytes:16B", 0, 16),
    ],
)
def test_one_byte_over_the_limit_is_refused(text, base, most):
    limit = parse_byte_limit(text)
    assert limit.allows(base, most)
    assert limit.allows(base, 0)
    assert not limit.allows(base, most + 1)


@pytest.mark.parametrize(
    "text",
    [
        "peak_tensor_bytes",
        "peak_tensor_bytes:",
        ":0%",
        "0%",
        "a b:0%",
        "peak_tensor_bytes:5",
        "x:-1%",
        "x:1Mb/s",
        "x:5ms",
        "x:2pp",
    ],
)
def test_malformed_limit_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"write it like|write percent") as caught:
        parse_byte_limit(text)
    assert repr(text) in str(caught.value)
