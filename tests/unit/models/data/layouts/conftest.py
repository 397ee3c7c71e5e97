"""The import as a user calls it."""

import json

import pytest

from models.data import import_videos


@pytest.fixture
def imported(capsys):
    """``imported(DIR, …)`` -> exit code, standard output, standard error."""

    def call(*arguments):
        code = import_videos.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def report(imported):
    """``report(DIR, …)`` -> the JSON object of an import that works."""

    def call(*arguments):
        code, out, err = imported(*arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return call
