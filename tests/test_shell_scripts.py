"""shellcheck has nothing to say about any shell script of the repository."""

import os
import shutil
import subprocess

import pytest


def shellcheck(*scripts, cwd):
    """What it says of each script."""
    if shutil.which("shellcheck") is None:
        reason = "shellcheck is not installed (.ci/install/shellcheck.sh)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return subprocess.run(["shellcheck", *scripts], cwd=cwd, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.slow
def test_every_script_is_sound(root, tmp_path):
    """CI's, those that install programs, and the examples; a variable without quotes shows that it looks."""
    scripts = [
        *root.glob(".ci/install/*.sh"),
        *root.glob("clients/**/*.sh"),
        *root.glob("deploy/runit/*"),
        root / ".ci" / "run",
    ]
    assert len(scripts) > 30
    assert shellcheck(*scripts, cwd=root) == ""
    broken = tmp_path / "broken.sh"
    broken.write_text("#!/bin/sh\nrm $1\n")
    assert "SC2086" in shellcheck(broken, cwd=root)
