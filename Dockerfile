# The image of the service: what serving needs, and no tools to build or install.
#
# TORCH_INDEX is a package index for torch, used besides PyPI; the default has CPU builds. If it is empty
# (--build-arg TORCH_INDEX=), torch comes from PyPI, with CUDA, and the image is several times as large.

FROM python:3.11-slim-bookworm AS torch-version
COPY requirements.txt .
RUN grep '^torch==' requirements.txt >torch.txt

FROM python:3.11-slim-bookworm AS packages
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
RUN python -m venv --without-pip /venv
# torch first and alone: it is nearly all of the download, and stays cached while other versions change.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY --from=torch-version torch.txt .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /venv install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --requirement torch.txt
COPY requirements.txt .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /venv install --requirement requirements.txt
# What your own models import besides: the file is optional. It cannot change the versions that the service needs.
COPY requirements.txt own-requirements.tx[t] ./
RUN --mount=type=cache,target=/root/.cache/pip \
    sed 's/\[.*\]//' requirements.txt >constraints.txt \
    && if [ -f own-requirements.txt ]; then \
    pip --python /venv install --constraint constraints.txt --requirement own-requirements.txt; fi
# Headers, test programs, test suites, symbol tables and setuptools come with torch, and serving never reads them.
RUN pip --python /venv uninstall --yes setuptools \
    && cd /venv/lib/python3.*/site-packages \
    && rm -rf torch/include torch/share torch/test \
    && find torch/bin -type f ! -name torch_shm_manager -delete \
    && find . -depth -type d -name tests -exec rm -rf {} + \
    && strip --strip-unneeded torch/lib/libtorch_cpu.so torch/lib/libtorch_python.so

FROM python:3.11-slim-bookworm AS code
WORKDIR /app
COPY gunicorn.conf.py ./
COPY checkpoints checkpoints
COPY models models
COPY service service
# The root file system will be read-only, so compile now. Make everything readable, whatever the checkout's umask was.
RUN python -m compileall -q . && chmod -R a+rX .

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="Carryover" \
      org.opencontainers.image.description="A REST inference service for stateful PyTorch models" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3.*/ensurepip /usr/local/lib/python3.*/site-packages/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin carryover
COPY --from=packages /venv /venv
COPY --from=code /app /app
WORKDIR /app
# PYTHONPATH is for commands such as `docker compose exec service python -m carryover.cli models`.
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app/service \
    PYTHONUNBUFFERED=1 \
    BIND=0.0.0.0:8000
USER 10001:10001
EXPOSE 8000
# gunicorn finishes the requests that it has accepted, for up to GRACEFUL_TIMEOUT seconds, and exits.
STOPSIGNAL SIGTERM
# Ready once, then alive: a deployment with wrong credentials does not get healthy, and one that has lost Redis still
# makes stateless predictions.
HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period=60s --start-interval=1s \
    CMD ["python", "-ISc", "from http.client import HTTPConnection as C; from pathlib import Path; \
was_ready = Path('/tmp/.was-ready'); c = C('127.0.0.1', 8000, timeout=4); \
c.request('GET', '/v2/health/live' if was_ready.exists() else '/v2/health/ready'); \
healthy = c.getresponse().status == 200; healthy and was_ready.touch(); raise SystemExit(not healthy)"]
CMD ["gunicorn"]
