"""The lab kit, used as a student and a lecturer use it.

.ci/run copies this file beside the others.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from test_mini_gpt import PARTS, SOURCE, blank, hide_bug, read_bugs

ROOT = Path(__file__).resolve().parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BUGS = [diff for diff, _ in read_bugs(TEXT)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A learner's folder: two files, and no README."""
    for name in "mini_gpt.py", "test_mini_gpt.py":
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words):
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def kit(*words):
    return call("test_mini_gpt.py", *words)


def pytest_with(*words):
    return call("-m", "pytest", "-q", "-p", "no:cacheprovider", *words)


def judge(command):
    assert command.startswith("pytest lab/judge.py")
    return pytest_with(*command.split()[1:])


@pytest.mark.parametrize("part", PARTS)
def test_a_blank_part_is_yours_to_write_and_passes_when_it_is_written(part, folder):
    status, command, _ = kit("--blank", part)
    assert status == 0 and f"-k test_{part}_" in command

    status, printed, _ = judge(command)
    assert status == 1 and f"{PARTS[part]} is yours to write" in printed

    shutil.copy("mini_gpt.py", "lab/mini_gpt.py")
    status, printed, _ = judge(command)
    assert status == 0, printed
    assert Path("mini_gpt.py").read_text(encoding="utf-8") == SOURCE


@pytest.mark.parametrize("part, others", [
    ("training", "mask attention block model targets loss floor generation sampling"),
    ("generation", "mask attention block model targets loss floor sampling"),
    ("sampling", "mask attention block model targets loss floor training"),
    ("floor", "mask attention block model targets loss generation sampling"),
    ("loss", "mask attention block model targets generation sampling"),
    ("targets", "mask attention block model generation sampling"),
])
def test_other_parts_keep_their_judges(part, others, folder):
    kit("--blank", part)

    selected = " or ".join(f"test_{other}_" for other in others.split())
    status, printed, _ = pytest_with("lab/judge.py", "-k", selected)

    assert status == 0, printed


def test_blank_keeps_labels_and_shapes_and_nothing_of_the_code():
    source = blank(SOURCE, "attention")

    body = source[source.index("def forward(self, x):"):]
    body = body[body.index('"""\n', 40) + 4:body.index("raise NotImplementedError")]
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    assert all(line.startswith("# ") for line in lines)
    assert sum(not line.startswith(("# (", "# each (")) for line in lines) == 8
    assert "# (B, H, T, T)" in lines
    for part in PARTS:
        compile(blank(SOURCE, part), part, "exec")


@pytest.mark.parametrize("number", range(14))
def test_a_hidden_bug_is_caught(number, folder, monkeypatch):
    diff = BUGS[number]
    seed = next(n for n in range(1000) if hide_bug(SOURCE, n)[1].startswith(diff))
    shutil.copy(ROOT / "README.md", folder)

    status, command, _ = kit("--bug", str(seed))

    hidden = Path("lab/mini_gpt.py").read_text(encoding="utf-8")
    assert status == 0 and not re.search(r"(?m)^ .*# ", hidden), "a comment may tell"
    status, printed, _ = judge(command)
    assert status == 1, "the judge must notice the bug"
    _, told, _ = kit("--bug", str(seed), "--tell")
    assert told.startswith(diff)


def test_a_lab_is_never_written_over(folder):
    kit("--blank", "mask")
    before = Path("lab/mini_gpt.py").read_text(encoding="utf-8")

    status, printed, error = kit("--blank", "loss")

    assert status == 2 and printed == "" and "move it away first" in error
    assert Path("lab/mini_gpt.py").read_text(encoding="utf-8") == before


def test_bugs_need_the_field_guide(folder):
    status, _, error = kit("--bug", "7")

    assert status == 2 and "README.md" in error and not Path("lab").exists()


def test_plain_pytest_goes_on_testing_the_original(folder):
    kit("--blank", "mask")

    status, printed, _ = pytest_with("-k", "test_mask_")

    assert status == 0 and "2 passed" in printed
