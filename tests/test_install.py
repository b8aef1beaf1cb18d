"""What `make install` leaves behind."""

from pathlib import Path

import commands


def test_a_folder_of_the_same_name_beside_a_script_is_not_taken_for_the_package(tmp_path: Path) -> None:
    """A clone, most often: an editable install by a path finder of setuptools would lose against it."""
    (tmp_path / "fastseg").mkdir()
    result = commands.run("python", "-c", "import fastseg; print(fastseg.UserError)", cwd=tmp_path)
    assert result.stdout == "<class 'fastseg.errors.UserError'>\n", result.stderr
