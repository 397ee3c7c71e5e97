"""The choices of a plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slr_bench.errors import ConfigError
from slr_bench.grid.cells import own_cell
from slr_bench.grid.config import GridConfig
from slr_bench.predict.plan.choices import at_size, choices_of, effective_batch, parse_vary

GRID = GridConfig(workload="train_step", arms={"a": {}})


def cell(**overrides):
    return own_cell(GRID, {key.replace("__", "."): value for key, value in overrides.items()})


def test_micro_batches_are_the_divisors_of_the_effective_batch():
    own = cell(training__batch_size=6, training__gradient_accumulation_steps=2)
    assert effective_batch(own) == 12
    choices = choices_of(own)
    assert choices.sizes == [1, 2, 3, 4, 6, 12]
    for size in choices.sizes:
        changed = at_size(own, size)
        assert changed["training.batch_size"] * changed["training.gradient_accumulation_steps"] == 12


def test_first_option_is_the_given_setting():
    own = cell(training__precision="fp32", training__recompute="stage", model__attention="dense")
    first = choices_of(own).options[0]
    assert first["training.precision"] == "fp32"
    assert first["training.recompute"] == "stage"
    assert first["model.attention"] == "dense"


def test_options_are_all_combinations_once():
    options = choices_of(cell()).options
    assert len(options) == len({tuple(sorted(option.items())) for option in options}) == 2 * 4 * 2 * 2


def test_knob_that_changes_the_model_is_left_alone_until_it_is_allowed():
    left = choices_of(cell()).left_alone
    assert any("would change the model" in text and "model.region_focus" in text for text in left)
    allowed = choices_of(cell(), allow=["model.region_focus"])
    assert {option["model.focus_size"] for option in allowed.options} == {None, 160, 128}


def test_knob_with_a_value_outside_its_choices_is_left_alone():
    choices = choices_of(cell(model__attention="sparse"))
    assert all("model.attention" not in option for option in choices.options)
    assert any("model.attention is sparse" in text for text in choices.left_alone)


def test_kept_knob_stays():
    assert all("training.precision" not in option for option in choices_of(cell(), keep=["training.precision"]).options)


def test_other_keys_can_vary():
    options = choices_of(cell(), vary={"model.num_frames": [8, 16]}).options
    assert {option["model.num_frames"] for option in options} == {8, 16}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": ["training.precison"]}, r"--keep: train_step has no knob 'training.precison'; did you mean"),
        ({"allow": ["focus"]}, r"--allow: train_step has no knob 'focus'"),
        ({"vary": {"training.batchsize": [1]}}, r"--vary: the setting has no key 'training.batchsize'; did you mean"),
    ],
)
def test_unknown_name_is_refused_with_the_nearest(arguments, message):
    with pytest.raises(ConfigError, match=message):
        choices_of(cell(), **arguments)


def test_values_of_vary_are_read_as_yaml():
    assert parse_vary(["training.batch_size=2,4", "model.focus_size=null,64", "training.batch_size=4,8,8"]) == {
        "training.batch_size": [2, 4, 8],
        "model.focus_size": [None, 64],
    }
    with pytest.raises(ConfigError, match="is not KEY=A,B"):
        parse_vary(["training.batch_size"])


def precisions(choices):
    return sorted({option["training.precision"] for option in choices.options})


def test_choices_are_the_types_that_the_gpu_computes_in():
    assert precisions(choices_of(cell(), capability=(7, 5))) == ["fp16", "fp32"]
    assert precisions(choices_of(cell(), capability=(8, 0))) == ["bf16", "fp32"]
    assert precisions(choices_of(cell())) == ["bf16", "fp32"]  # an unknown card


def test_values_of_vary_replace_those_of_a_knob():
    choices = choices_of(cell(training__precision="bf16"), vary={"training.precision": ["tf32", "bf16"]})
    assert precisions(choices) == ["bf16", "tf32"]
    assert len(choices.options) == 2 * 4 * 2 * 2
    assert choices.options[0]["training.precision"] == "bf16"
    assert choices.named == [{"training.precision": "tf32"}, {"training.precision": "bf16"}]
    assert not any("training.precision" in text for text in choices.left_alone)


def test_micro_batch_is_kept_or_chosen_among_named_sizes():
    own = cell(training__batch_size=4, training__gradient_accumulation_steps=3)
    assert choices_of(own, keep=["training.batch_size"]).sizes == [4]
    assert choices_of(own, vary={"training.batch_size": [6, 2]}).sizes == [2, 6]
    for size in (5, 24, True, "2"):
        with pytest.raises(ConfigError, match=r"training.batch_size: .* does not divide the effective batch of 12"):
            choices_of(own, vary={"training.batch_size": [size]})
    with pytest.raises(ConfigError, match=r"follows from training.batch_size"):
        choices_of(own, vary={"training.gradient_accumulation_steps": [2]})


def test_key_that_a_knob_changes_with_others_can_vary_if_the_knob_is_kept():
    allowed = {"allow": ["model.region_focus"], "vary": {"model.focus_size": [96, 112]}}
    with pytest.raises(ConfigError, match=r"--keep model.region_focus"):
        choices_of(cell(), **allowed)
    focused = cell(model__region_focus="motion", model__focus_size=96)
    choices = choices_of(focused, keep=["model.region_focus"], vary={"model.focus_size": [96, 112]})
    assert {option["model.focus_size"] for option in choices.options} == {96, 112}
    assert not any("model.region_focus" in text for text in choices.left_alone)


def test_allowable_knobs_do_not_include_kept_knobs():
    choices = choices_of(cell(model__attention="sparse"), keep=["training.recompute"])
    assert choices.allowable == ["model.attention", "model.region_focus"]


def test_workload_without_declarations_is_left_alone_with_reasons():
    bare = replace(cell(), spec=replace(cell().spec, knobs=(), micro_batch=None))
    choices = choices_of(bare)
    assert (choices.options, choices.sizes) == ([{}], [1])
    assert choices.left_alone == [
        "train_step declares no micro_batch and micro_batches: its batch stays as it is",
        "train_step declares no knobs",
    ]
