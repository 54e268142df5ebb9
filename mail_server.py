"""Start Postroom as its users always have: `python mail_server.py` is `postroom serve`.

The current folder keeps the files (`data.csv`, `var/`, the log); this file's own folder is only where the
program is. Any Python may run this: the environment `.venv` beside this file is used where there is one.

`mail_server:app` is the application for another WSGI server (gunicorn, waitress). It accepts mail and answers;
`postroom worker`, run beside it in the same folder, sends.

This file is written so that old Pythons can read it too: they say what to do instead of a traceback.
"""

import os
import re
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
ENVIRONMENT = os.path.join(HERE, ".venv")
PYTHON = os.path.join(ENVIRONMENT, "bin", "python")
OLDEST = (3, 11)


def main():
    # type: () -> None
    """Run `postroom serve` with the arguments of this call."""
    runs_here = os.path.realpath(sys.prefix) == os.path.realpath(ENVIRONMENT)
    if os.path.exists(PYTHON) and not runs_here:
        os.execv(PYTHON, [PYTHON, os.path.abspath(__file__)] + sys.argv[1:])
    fault = what_is_missing()
    if fault:
        sys.exit("postroom: " + fault)
    sys.path.insert(0, HERE)
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, inherited]))  # for the processes to come
    from postroom.cli.main import main as run

    sys.argv = ["postroom", "serve"] + sys.argv[1:]
    run()


def what_is_missing():
    # type: () -> str | None
    """Return in one line why the program cannot run with this Python, and what to do; None when it can."""
    install = "run `make install` in %s" % HERE
    if sys.version_info < OLDEST:
        return (
            "this is Python %d.%d; Postroom needs 3.11 or newer: %s with one (make PYTHON=python3.12 install)"
            % (
                sys.version_info[0],
                sys.version_info[1],
                install,
            )
        )
    missing = [name for name in required() if not is_installed(name)]
    if missing:
        return "not installed for this Python: %s; %s, which makes .venv beside this file" % (
            ", ".join(missing),
            install,
        )
    return None


def required():
    # type: () -> list[str]
    """Return the packages that the program needs on this system."""
    with open(os.path.join(HERE, "requirements", "run.in")) as file:
        lines = [re.split(r"[\s#;]", line)[0] for line in file if not re.match(r"\s*(#|-|$)", line)]
    names = [re.split(r"[\[<>=!~]", line)[0] for line in lines]
    return [name for name in names if name != "flit_core"]  # only installs


def is_installed(name):
    # type: (str) -> bool
    """Return whether a package of this name is there, whatever its version."""
    from importlib import metadata

    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def __getattr__(name):
    # type: (str) -> object
    """Make `app` on first use: a Flask application that each process opens for itself, also after a fork."""
    if name != "app":
        raise AttributeError("module 'mail_server' has no attribute %r" % name)
    fault = what_is_missing()
    if fault:
        raise ImportError(fault)
    from postroom.wsgi import app

    globals()["app"] = app
    return app


if __name__ == "__main__":
    main()
