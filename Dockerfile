# Postroom in a container: docker build -t postroom . ; see docs/deployment.md. The packages are a layer of their own, so that
# a new version of Postroom pushes its code alone.
FROM python:3.13-slim AS base

# The packages that are needed, each with its hash.
FROM base AS packages
WORKDIR /opt/postroom
COPY requirements/run.txt requirements/run.txt
RUN python3 -m venv .venv
RUN .venv/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/run.txt
RUN echo /opt/postroom/program > "$(echo .venv/lib/python*/site-packages)/program.pth"

# Postroom itself, into a folder that the environment finds.
FROM packages AS program
COPY pyproject.toml README.md LICENSE ./
COPY postroom postroom
RUN .venv/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --no-index --target program .

# The environment without pip: nothing is installed once it runs.
FROM packages AS environment
RUN .venv/bin/python -m pip uninstall --quiet --yes pip

FROM base
LABEL org.opencontainers.image.title="Postroom" \
      org.opencontainers.image.description="An email-sending API for the mailboxes you already own" \
      org.opencontainers.image.licenses="MIT"
# A number, so that runAsNonRoot can tell that it is not root; of group 0, as any user is that is put in its place.
RUN mkdir /data && chown 10001:0 /data && chmod 0770 /data
COPY --from=environment /opt/postroom/.venv /opt/postroom/.venv
COPY --from=program /opt/postroom/program /opt/postroom/program
# data.csv, email_log.txt and var/ live in /data, and so do the secret key and the admin token where none is given: give it a volume.
ENV PATH=/opt/postroom/program/bin:/opt/postroom/.venv/bin:$PATH HOST=0.0.0.0 PYTHONDONTWRITEBYTECODE=1
WORKDIR /data
VOLUME /data
USER 10001:0
EXPOSE 5000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=20s CMD ["postroom", "healthy", "web"]
ENTRYPOINT ["postroom"]
CMD ["serve"]
