"""The exit code of each error."""

from slr_bench import errors
from slr_bench.errors import SlrBenchError


def test_exit_codes_are_the_documented_ones():
    codes = {name: value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert codes == {
        "EXIT_OK": 0,
        "EXIT_REGRESSION": 1,
        "EXIT_USAGE": 2,
        "EXIT_NO_BASELINE": 3,
        "EXIT_NOT_COMPARABLE": 4,
        "EXIT_NOTHING_MEASURED": 5,
        "EXIT_DOES_NOT_FIT": 6,
        "EXIT_CELL_CRASHED": 7,
        "EXIT_INTERNAL_ERROR": 70,
        "EXIT_IO_ERROR": 74,
        "EXIT_INTERRUPTED": 130,
        "EXIT_BROKEN_PIPE": 141,
    }


def test_every_error_has_a_documented_exit_code():
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")} - {errors.EXIT_OK}
    tree = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SlrBenchError)]
    assert {kind.exit_code for kind in tree} <= codes
    assert errors.NothingMeasuredError.exit_code == 5
    assert errors.ConfigError.exit_code == errors.DataError.exit_code == 2
