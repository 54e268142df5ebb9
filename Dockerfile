# Postroom in a container. No container engine was at hand when this was written: the tests (tests/process/test_compose.py)
# run each of its steps, and the commands of compose.yaml, outside of one.
FROM python:3.13-slim

WORKDIR /opt/postroom
COPY pyproject.toml README.md LICENSE mail_server.py ./
COPY requirements/run.txt requirements/run.txt
COPY postroom postroom
RUN python3 -m venv .venv
RUN .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
RUN .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .

# data.csv, email_log.txt and var/ live here: give it a volume.
WORKDIR /data
ENV HOST=0.0.0.0
EXPOSE 5000
STOPSIGNAL SIGTERM
CMD ["/opt/postroom/.venv/bin/postroom", "serve"]
