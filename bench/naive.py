"""The peer: one thread and one SMTP login for every mail, statuses in a dict. Not part of Postroom.

This is the design that Postroom replaces, written as its author would write it: short, and good enough
until the process ends. Nothing in it is slowed down on purpose. It differs from a service for Gmail in one
thing only, and to its advantage: STARTTLS and the log-in are left out where the server does not offer them.
"""

from __future__ import annotations

import argparse
import csv
import os
import smtplib
import threading
import uuid
from datetime import datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

SMTP_SERVER = os.environ.get("NAIVE_SMTP_HOST", "smtp.gmail.com")
SMTP_PORT = int(os.environ.get("NAIVE_SMTP_PORT", "587"))
BLOCKING_THREADS = 32  # as many as Postroom has

app = Flask(__name__)
limiter = Limiter(
    get_remote_address,
    app=app,
    storage_uri="memory://",
    default_limits=[os.environ.get("NAIVE_RATE_LIMIT", "600/minute")],
)
email_status: dict[str, str] = {}


def load_accounts() -> dict[str, dict[str, str]]:
    with Path("data.csv").open(newline="", encoding="utf-8") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


accounts = load_accounts() if Path("data.csv").exists() else {}


def log_email(request_id: str, sender: str, recipient: str, date: str, status: str) -> None:
    with Path("email_log.txt").open("a", encoding="utf-8") as file:
        file.write(
            f"Request ID: {request_id}, Sender: {sender}, Recipient: {recipient}, Date: {date}, Status: {status}\n"
        )


def send_email(request_id: str, account: dict[str, str], data: dict[str, Any]) -> None:
    date = datetime.now().strftime("%Y-%m-%d %H:%M:%S")  # noqa: DTZ005
    email_status[request_id] = "sending"
    message = EmailMessage()
    message["From"] = account["email"]
    message["To"] = data["recipient"]
    message["Subject"] = data["subject"]
    message.set_content(data["body"], subtype="html" if data.get("is_html") else "plain")
    try:
        with smtplib.SMTP(SMTP_SERVER, SMTP_PORT) as server:
            server.ehlo()
            if server.has_extn("starttls"):
                server.starttls()
                server.ehlo()
            if server.has_extn("auth"):
                server.login(account["email"], account["app_password"])
            server.sendmail(account["email"], [data["recipient"]], message.as_bytes())
        status = "sent"
    except Exception as error:
        status = f"failed ({error})"
    email_status[request_id] = status
    log_email(request_id, account["email"], data["recipient"], date, status)


@app.post("/send-email")
def post_send_email() -> ResponseReturnValue:
    data = request.get_json()
    for name in ("subject", "recipient", "body", "key"):
        if not isinstance(data.get(name), str):
            return jsonify({"error": f"{name} is missing"}), 400
    account = accounts.get(data["key"])
    if account is None:
        return jsonify({"error": "Invalid key"}), 401
    request_id = str(uuid.uuid4())
    email_status[request_id] = "queued"
    threading.Thread(target=send_email, args=(request_id, account, data)).start()
    return jsonify({"message": "Email request is being processed", "request_id": request_id}), 202


@app.get("/email-status/<request_id>")
def get_email_status(request_id: str) -> ResponseReturnValue:
    if request_id not in email_status:
        return jsonify({"error": "Unknown request_id"}), 404
    return jsonify({"request_id": request_id, "status": email_status[request_id]})


def main() -> None:
    parser = argparse.ArgumentParser(description="The thread-per-mail design, for comparison.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--server", choices=("granian", "werkzeug"), required=True)
    options = parser.parse_args()
    if options.server == "werkzeug":
        app.run(port=options.port, threaded=True)
        return
    from granian.constants import Interfaces
    from granian.log import LogLevels
    from granian.server import Server

    Server(
        "bench.naive:app",
        port=options.port,
        interface=Interfaces.WSGI,
        blocking_threads=BLOCKING_THREADS,
        backpressure=BLOCKING_THREADS,
        workers_kill_timeout=5,
        log_level=LogLevels.warning,
    ).serve()


if __name__ == "__main__":
    main()
