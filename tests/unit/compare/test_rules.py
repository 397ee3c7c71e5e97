"""Rules are read exactly from options and files, and mistakes are refused in one sentence."""

from __future__ import annotations

import contextlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slr_bench.compare.rules import gather_rules, parse_limit, parse_rule, read_rules
from slr_bench.errors import ConfigError
from slr_bench.units import MIB


@pytest.mark.parametrize(
    ("text", "amount", "kind"),
    [
        ("0%", 0, "percent"),
        ("2.5 %", Fraction(5, 2), "percent"),
        ("100MiB", 100 * MIB, "bytes"),
        ("1 GB", 1024 * MIB, "bytes"),
        ("64B", 64, "bytes"),
        ("0.1%", Fraction(1, 10), "percent"),
        ("50ms", Fraction(1, 20), "s"),
        ("3us", Fraction(3, 10**6), "s"),
        ("3µs", Fraction(3, 10**6), "s"),
        ("0.5s", Fraction(1, 2), "s"),
        ("2pp", 2, "points"),
        ("3J", 3, "J"),
        ("1000", 1000, "1"),
    ],
)
def test_limits_are_read_exactly(text, amount, kind):
    limit = parse_limit(text, "here")
    assert (limit.amount, limit.kind) == (amount, kind)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "%",
        "-1%",
        "nan%",
        "inf%",
        "1e3%",
        "5 apples",
        "0x10%",
        "1,5%",
        "1%%",
        "9" * 31 + "%",
        "9" * 400 + "B",
        "٣%x",
        "1/0",
    ],
)
def test_an_invalid_limit_is_refused_with_examples(text):
    with pytest.raises(ConfigError, match=r"^here: limit .* is not an amount with a unit; write percent"):
        parse_limit(text, "here")


@given(st.text(max_size=40))
def test_any_text_is_read_as_a_limit_or_refused(text):
    with contextlib.suppress(ConfigError):
        assert parse_limit(text, "here").amount >= 0


def test_a_repeated_rule_is_judged_once(tmp_path):
    (tmp_path / "rules.yml").write_text("rules: {peak_tensor_bytes: 2%}\n")
    found = gather_rules(
        ["peak_tensor_bytes:2%", "peak_tensor_bytes:2.0%", "peak_tensor_bytes:1%"], [tmp_path / "rules.yml"], []
    )
    assert [rule.limit.amount for rule in found.rules] == [2, 1]


def test_a_rule_has_a_metric_a_limit_and_an_optional_flag():
    rule = parse_rule("step_time_s:10%:optional")
    assert (rule.metric, rule.limit.amount, rule.optional, rule.text) == (
        "step_time_s",
        10,
        True,
        "step_time_s:10%:optional",
    )
    assert parse_rule(" step_time_s : 10% ").metric == "step_time_s"


@pytest.mark.parametrize("text", ["", "step_time_s", ":5%", "a:5%:b", "a:5%:optional:", "a::optional:x"])
def test_a_malformed_rule_is_refused(text):
    with pytest.raises(ConfigError, match="is not METRIC:LIMIT; write it like peak_tensor_bytes:0%"):
        parse_rule(text)


def test_rules_from_a_file_and_from_options_are_combined(tmp_path):
    path = tmp_path / "rules.yml"
    path.write_text(
        "rules:\n  peak_tensor_bytes: 0%\n  step_time_s: {limit: 10%, optional: true}\n  parameters: 1000\n"
        "allow_missing: [old-*]\n"
    )
    found = gather_rules(["peak_rss_bytes:100MiB"], [path], ["x"])
    assert [(rule.text, rule.optional) for rule in found.rules] == [
        ("peak_tensor_bytes:0%", False),
        ("step_time_s:10%:optional", True),
        ("parameters:1000", False),
        ("peak_rss_bytes:100MiB", False),
    ]
    assert found.allow_missing == ("old-*", "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules: {a: 5 apples}", "rules.yml: rule 'a': limit '5 apples' is not an amount"),
        ("rule: {a: 5%}", "unknown key 'rule'; did you mean 'rules'"),
        ("rules: {a: {limt: 5%}}", "limt"),
        ("rules: {a: }", "rules.a"),
        ("rules: {a: [5%]}", "rules.a"),
        ("allow_missing: [a]", "key 'rules' is missing"),
        ("", "the file is empty"),
        ("rules: [", "not valid YAML"),
    ],
)
def test_a_mistake_in_a_rules_file_is_reported_with_its_location(tmp_path, text, words):
    path = tmp_path / "rules.yml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_rules(path)
    assert words in str(refused.value)


def test_a_gate_without_rules_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^no rule: name the metrics .*, for example --rule peak_tensor_bytes:0%"):
        gather_rules([], [], [])
    (tmp_path / "rules.yml").write_text("rules: {}")
    with pytest.raises(ConfigError, match="no rule"):
        gather_rules([], [tmp_path / "rules.yml"], [])
