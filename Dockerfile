# Training on NVIDIA GPUs. CUDA comes with JAX's wheels, so the image holds none; the host needs a driver and the NVIDIA
# Container Toolkit. Command lines: docs/docker.md.
FROM python:3.12-slim

WORKDIR /opt/hvt_jax
# What changes rarely first: these layers, some gigabytes, are kept when only the code changes.
COPY requirements.txt requirements-cuda12.txt ./
RUN pip install --no-cache-dir -r requirements-cuda12.txt
COPY pyproject.toml README.md LICENSE ./
COPY hvt_jax hvt_jax
COPY configs configs
RUN pip install --no-cache-dir --no-deps --editable . && useradd --create-home --uid 1000 hvt

# With --user any number may run it, which has no home of its own; what libraries cache there goes to /tmp.
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib
USER hvt
ENTRYPOINT ["python", "-m"]
CMD ["hvt_jax"]
