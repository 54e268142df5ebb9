"""The peer that people bolt together: Flask puts a task into Redis, Celery's processes send it with smtplib.

Runs in an environment of its own (.venv-bench, requirements/bench.txt) and imports nothing else from here. A task is
acknowledged when it is done (acks_late), and Redis appends to its file, as somebody who minds lost mail would set it.
`python -m bench.celery_stack --port N` starts Redis, Celery and the web process, and ends them all.
"""

from __future__ import annotations

import argparse
import os
import signal
import smtplib
import subprocess
import sys
import time
import uuid
from email.message import EmailMessage
from pathlib import Path
from typing import Any

CONCURRENCY = 8
_REDIS_PORT = int(os.environ.get("STACK_REDIS_PORT", "0"))
_SINK_PORT = int(os.environ.get("STACK_SINK_PORT", "0"))


def make_tasks() -> Any:
    """Build the Celery application."""
    from celery import Celery

    url = f"redis://127.0.0.1:{_REDIS_PORT}/0"
    tasks = Celery("stack", broker=url, backend=url)
    tasks.conf.update(task_acks_late=True, worker_prefetch_multiplier=4, result_expires=3600)

    @tasks.task(name="send")  # type: ignore[untyped-decorator]  # celery is in the other environment
    def send(sender: str, recipient: str, subject: str, body: str) -> str:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = sender, recipient, subject
        message.set_content(body)
        with smtplib.SMTP("127.0.0.1", _SINK_PORT) as server:
            server.sendmail(sender, [recipient], message.as_bytes())
        return "sent"

    return tasks


def make_app() -> Any:
    """Build the Flask application."""
    from flask import Flask, jsonify, request

    app, tasks = Flask(__name__), make_tasks()

    @app.post("/send-email")
    def post_send_email() -> Any:
        data = request.get_json()
        request_id = str(uuid.uuid4())
        arguments = ("bench@example.com", data["recipient"], data["subject"], data["body"])
        tasks.send_task("send", arguments, task_id=request_id)
        return jsonify({"message": "Email request is being processed", "request_id": request_id}), 202

    return app


def _web(port: int) -> None:
    from granian.constants import Interfaces
    from granian.log import LogLevels
    from granian.server import Server

    Server(
        "bench.celery_stack:make_app",
        port=port,
        interface=Interfaces.WSGI,
        factory=True,
        blocking_threads=32,
        backpressure=32,
        log_level=LogLevels.warning,
    ).serve()


def _all(port: int, redis_port: int) -> None:
    folder = Path.cwd()
    own = {**os.environ, "STACK_REDIS_PORT": str(redis_port)}
    python = [sys.executable, "-m"]
    queue = ["redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--dir", str(folder)]
    commands = [
        [*queue, "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""],
        [*python, "bench.celery_stack", "--worker", "--port", "0"],
        [*python, "bench.celery_stack", "--web", "--port", str(port)],
    ]
    children = []
    for command in commands:
        children.append(subprocess.Popen(command, env=own))
        time.sleep(0.5)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        signal.pause()
    finally:
        for child in reversed(children):
            child.terminate()
        for child in children:
            child.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.celery_stack", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--redis", type=int, default=0, help="the port of the Redis that is started")
    parser.add_argument("--web", action="store_true", help="the web process alone")
    parser.add_argument("--worker", action="store_true", help="Celery's processes alone")
    options = parser.parse_args()
    if options.worker:
        make_tasks().worker_main(["worker", "-c", str(CONCURRENCY), "-l", "WARNING"])
    elif options.web:
        _web(options.port)
    else:
        _all(options.port, options.redis)


if __name__ == "__main__":
    main()
