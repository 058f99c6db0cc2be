# The service's image: what serving needs, and nothing to build or install with.
#
# TORCH_INDEX is the package index that torch is looked for in besides PyPI; the default has builds for CPUs.
# Empty (--build-arg TORCH_INDEX=), torch is PyPI's, with CUDA, and the image several times as large.

FROM python:3.11-slim-bookworm AS torch-version
COPY requirements.txt .
RUN grep '^torch==' requirements.txt >torch.txt

FROM python:3.11-slim-bookworm AS packages
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
RUN python -m venv --without-pip /venv
# torch first and alone: it is nearly all of the download, and stays in the cache while other versions change.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY --from=torch-version torch.txt .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /venv install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --requirement torch.txt
COPY requirements.txt .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /venv install --requirement requirements.txt
# Headers, test programs, test suites, symbol tables and setuptools: torch brings them, serving never opens them.
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
# The root file system will be read-only: compile now. Any user may read, whatever the checkout's umask was.
RUN python -m compileall -q . && chmod -R a+rX .

FROM python:3.11-slim-bookworm
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3.*/ensurepip /usr/local/lib/python3.*/site-packages/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin carryover
COPY --from=packages /venv /venv
COPY --from=code /app /app
WORKDIR /app
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    BIND=0.0.0.0:8000
USER 10001:10001
EXPOSE 8000
# gunicorn answers what it has accepted, for up to GRACEFUL_TIMEOUT seconds, and ends.
STOPSIGNAL SIGTERM
# Alive, not ready: a service without Redis still predicts.
HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period=60s --start-interval=1s \
    CMD ["python", "-ISc", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); \
c.request('GET', '/v2/health/live'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["gunicorn"]
