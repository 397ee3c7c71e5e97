"""The workflows of CI: they parse, may do the least, and call what there is."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = ROOT / ".github" / "workflows"
SHA, OTHER_SHA = "a" * 40, "b" * 40


def workflow(name):
    values = yaml.safe_load((WORKFLOWS / name).read_text())
    return values | {"on": values[True]}  # YAML 1.1 reads the key `on` as true


def steps(values):
    return [step for job in values["jobs"].values() for step in job["steps"]]


def scripts(values):
    return "\n".join(step["run"] for step in steps(values) if "run" in step)


def make_targets(text):
    return re.findall(r"^make ([a-z-]+)$", text, re.MULTILINE)


def test_ci_runs_what_the_local_command_runs_and_that_exists():
    called = make_targets(scripts(workflow("ci.yml")))
    assert called == make_targets((ROOT / ".ci" / "run").read_text())
    known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"check", "test", "bench-check", "test-browser"} == {*called} <= {*known}


def test_the_code_of_a_pull_request_runs_without_rights():
    values = workflow("ci.yml")
    assert values["permissions"] == {"contents": "read"}
    assert not [job for job in values["jobs"].values() if "permissions" in job]
    assert "pull_request" in values["on"]
    assert "pull_request_target" not in values["on"]
    text = (WORKFLOWS / "ci.yml").read_text()
    assert "secrets." not in text
    checkouts = [step for step in steps(values) if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_what_may_write_runs_no_foreign_code():
    values = workflow("comment.yml")
    assert values["permissions"] == {}
    (job,) = values["jobs"].values()
    assert job["permissions"] == {"actions": "read", "pull-requests": "write"}
    assert not [step for step in steps(values) if "uses" in step]
    assert "${{" not in scripts(values)
    assert "git " not in scripts(values)
    assert job["if"] == "${{ github.event.workflow_run.event == 'pull_request' }}"


def test_the_two_workflows_fit():
    ci, comment = workflow("ci.yml"), workflow("comment.yml")
    assert comment["on"]["workflow_run"] == {"workflows": [ci["name"]], "types": ["completed"]}
    (upload,) = [step for step in steps(ci) if "upload-artifact" in step.get("uses", "")]
    assert f"--name {upload['with']['name']} " in scripts(comment)
    assert f"page=gate/{Path(upload['with']['path']).name}\n" in scripts(comment)


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.name)
def test_actions_are_pinned_to_a_commit_with_its_version_beside_it(path):
    uses = re.findall(r"uses: (.*)", path.read_text())
    assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one) for one in uses)


FAKE_GH = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> calls.txt
case "$*" in
  "run download"*) mkdir -p gate; cp page.md gate/gate.md ;;
  *"/pulls "*) python3 -c "
import json, os
pulls = json.load(open('pulls.json'))
print(next((pull['number'] for pull in pulls if pull['sha'] == os.environ['HEAD_SHA']), ''))" ;;
  *"--paginate"*) cat comments.txt ;;
  *"body=@body.md"*) cp body.md posted.md ;;
esac
"""


@pytest.fixture
def comment(tmp_path):
    """``comment(page, comments)`` runs the privileged script with a GitHub of files; the calls, and what was posted."""
    (tmp_path / "gh").write_text(FAKE_GH)
    (tmp_path / "gh").chmod(0o755)

    def run(page, comments="", pulls=f'[{{"number": 6, "sha": "{OTHER_SHA}"}}, {{"number": 7, "sha": "{SHA}"}}]'):
        for name, text in (("page.md", page), ("comments.txt", comments), ("pulls.json", pulls)):
            (tmp_path / name).write_text(text)
        variables = {
            "REPOSITORY": "owner/name",
            "RUN": "1",
            "RUN_URL": "https://host/run",
            "HEAD": "fork:$(touch hacked)",
        }
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", "HEAD_SHA": SHA} | variables
        subprocess.run(
            ["bash", "-c", scripts(workflow("comment.yml"))], cwd=tmp_path, env=environment, check=True, timeout=60
        )
        assert not (tmp_path / "hacked").exists()
        posted = tmp_path / "posted.md"
        return (tmp_path / "calls.txt").read_text(), posted.read_text() if posted.exists() else None

    return run


def test_the_first_run_posts_a_comment_at_the_pull_request_of_its_commit(comment):
    calls, posted = comment("### passed\nthanks @everybody\n")
    assert "--method POST repos/owner/name/issues/7/comments" in calls
    assert "PATCH" not in calls
    assert posted.startswith("<!-- byte gate -->\n")
    assert "@everybody" not in posted
    assert posted.endswith("### passed\nthanks @\u200beverybody\n")


def test_a_later_run_updates_it(comment):
    calls, _ = comment("### passed\n", comments="41\n42\n")
    assert "--method PATCH repos/owner/name/issues/comments/41 " in calls
    assert "POST" not in calls


def test_a_commit_that_is_no_longer_the_head_is_not_commented_on(comment):
    calls, posted = comment("### passed\n", pulls="[]")
    assert posted is None
    assert "POST" not in calls


def test_a_long_page_is_cut_to_what_a_comment_holds(comment):
    _, posted = comment("é" * 100_000)
    assert 29_000 < len(posted) < 65_536
