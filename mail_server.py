"""Start Postroom as its users always have: `python mail_server.py` is `postroom serve`.

The current folder keeps the files (`data.csv`, `var/`, the log); this file's own folder is only
where the program is. Without the packages, the environment that `make install` made is used.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = HERE / ".venv" / "bin" / "python"


def main() -> None:
    sys.path.insert(0, str(HERE))
    try:
        from postroom.cli import main as run
    except ModuleNotFoundError as error:
        if PYTHON.exists() and Path(sys.prefix) != PYTHON.parent.parent:
            os.execv(PYTHON, [str(PYTHON), __file__, *sys.argv[1:]])  # noqa: S606
        sys.exit(f"postroom: {error.name} is not installed; run `make install` in {HERE} first")
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(HERE), inherited])
    )  # for the processes to come
    sys.argv = ["postroom", "serve", *sys.argv[1:]]
    run()


if __name__ == "__main__":
    main()
