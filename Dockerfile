# The dashboard on the CPU:  docker build -t cap-viz . && docker run -p 127.0.0.1:8501:8501 -v cap-viz:/data cap-viz
# For NVIDIA GPUs build with --build-arg TORCH_INDEX= (PyPI's torch brings CUDA) and run with --gpus all.
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV TORCH_INDEX=${TORCH_INDEX} PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 CAP_VIZ_CACHE=/data

RUN useradd --create-home --uid 1000 capviz && mkdir /app /data && chown 1000:1000 /app /data
WORKDIR /app
USER 1000

# What is installed changes less often than the code, and stays a layer of its own.
COPY --chown=1000:1000 requirements.txt requirements-model.txt constraints.txt ./
COPY --chown=1000:1000 scripts/setup.sh scripts/setup.sh
RUN sh scripts/setup.sh app
COPY --chown=1000:1000 . .

# Runs, converted models and the log; everything else is only read.
VOLUME /data
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD [".venv/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=4)"]
CMD [".venv/bin/python", "-m", "cap_viz", "serve", "--host", "0.0.0.0", "--port", "8501"]
